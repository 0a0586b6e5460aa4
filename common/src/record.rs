//! An event as a line of the log: `{"seq":N,"createdAt":…,"level":…,"type":…,"message":…,"detail":{…}}`.
//!
//! Owns the frame. What types there are, and what their details mean, each program says itself. A line is read in one
//! pass, straight into what it means: its type stands before its detail.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, VariantAccess, Visitor,
};
use serde::{Deserialize, Serialize, forward_to_deserialize_any};
use serde_json::{Map, Value};

use crate::log::Seq;
use crate::time::Timestamp;

/// An event with its place and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<E> {
    /// Its number.
    pub seq: Seq,
    /// When it was written down.
    pub at: Timestamp,
    /// What happened.
    pub event: E,
}

/// What a program writes down.
pub trait Event: Serialize + Sized {
    /// What it calls the time of an event.
    const CREATED_AT: &str;

    /// Reads the detail of an event of that type, whatever the type.
    ///
    /// # Errors
    /// What the detail lacks.
    fn read<'de, D: Deserializer<'de>>(r#type: &str, detail: D) -> Result<Self, D::Error>;
}

/// The line of the log, without its end. It begins `{"seq":N,`.
pub fn render<E: Event>(
    record: &Record<E>,
    level: &str,
    r#type: &str,
    message: &str,
    detail: &Map<String, Value>,
) -> String {
    let (seq, at, created_at) = (record.seq, record.at, E::CREATED_AT);
    let message = Value::from(message);
    // A map of strings and values: nothing in it can fail.
    let detail = serde_json::to_string(detail).unwrap_or_default();
    format!(
        r#"{{"seq":{seq},"{created_at}":"{at}","level":"{level}","type":"{type}","message":{message},"detail":{detail}}}"#
    )
}

/// Type and detail of an enum whose variants are types, and their fields details; nothing of one that is skipped.
pub fn parts<E: Serialize>(event: &E) -> Option<(String, Map<String, Value>)> {
    let Ok(Value::Object(tagged)) = serde_json::to_value(event) else { return None };
    let (r#type, detail) = tagged.into_iter().next()?;
    if let Value::Object(detail) = detail { Some((r#type, detail)) } else { None }
}

/// The same read back: the variant of that type. One that is not known is the one marked `#[serde(other)]`.
///
/// # Errors
/// What the detail lacks.
pub fn variant<'de, E: Deserialize<'de>, D: Deserializer<'de>>(
    r#type: &str,
    detail: D,
) -> Result<E, D::Error> {
    E::deserialize(Variant { r#type, detail })
}

/// Reads a line that [`render`] wrote, of this version or another.
///
/// # Errors
/// A sentence for the log: what the line lacks.
pub fn parse<E: Event>(line: &str) -> Result<Record<E>, String> {
    let mut reader = serde_json::Deserializer::from_str(line);
    let read = reader.deserialize_map(Frame(PhantomData));
    read.and_then(|record| reader.end().map(|()| record)).map_err(|error| error.to_string())
}

struct Frame<E>(PhantomData<E>);

impl<'de, E: Event> Visitor<'de> for Frame<E> {
    type Value = Record<E>;

    fn expecting(&self, text: &mut fmt::Formatter) -> fmt::Result {
        text.write_str("an event")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Record<E>, M::Error> {
        let (mut seq, mut at, mut r#type, mut event) = (None, None, None, None);
        while let Some(key) = map.next_key::<Cow<str>>()? {
            match &*key {
                "seq" => seq = Some(map.next_value()?),
                "type" => r#type = Some(map.next_value::<Cow<str>>()?),
                "detail" => {
                    let r#type = r#type.as_deref().ok_or_else(|| de::Error::missing_field("type"))?;
                    event = Some(map.next_value_seed(Of::<E>(r#type, PhantomData))?);
                }
                key if key == E::CREATED_AT => at = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let missing = |field| move || de::Error::missing_field(field);
        Ok(Record {
            seq: seq.ok_or_else(missing("seq"))?,
            at: at.ok_or_else(missing(E::CREATED_AT))?,
            event: event.ok_or_else(missing("detail"))?,
        })
    }
}

/// The detail of an event of this type.
struct Of<'a, E>(&'a str, PhantomData<E>);

impl<'de, E: Event> DeserializeSeed<'de> for Of<'_, E> {
    type Value = E;

    fn deserialize<D: Deserializer<'de>>(self, detail: D) -> Result<E, D::Error> {
        E::read(self.0, detail)
    }
}

/// One variant of an enum, name and content apart.
struct Variant<'a, D> {
    r#type: &'a str,
    detail: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Variant<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, D: Deserializer<'de>> EnumAccess<'de> for Variant<'_, D> {
    type Error = D::Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), D::Error> {
        Ok((seed.deserialize(StrDeserializer::new(self.r#type))?, self))
    }
}

impl<'de, D: Deserializer<'de>> VariantAccess<'de> for Variant<'_, D> {
    type Error = D::Error;

    fn unit_variant(self) -> Result<(), D::Error> {
        IgnoredAny::deserialize(self.detail).map(drop)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, D::Error> {
        seed.deserialize(self.detail)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.detail.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.detail.deserialize_map(visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Weather {
        #[serde(rename = "sun.rose")]
        SunRose { degrees: u64 },
        #[serde(rename = "rain.fell")]
        RainFell(Box<Rain>),
        #[serde(other)]
        Other,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Rain {
        millimetres: Option<u64>,
    }

    impl Event for Weather {
        const CREATED_AT: &str = "at";

        fn read<'de, D: Deserializer<'de>>(r#type: &str, detail: D) -> Result<Weather, D::Error> {
            variant(r#type, detail)
        }
    }

    fn read(line: &str) -> Result<Weather, String> {
        parse::<Weather>(line).map(|record| record.event)
    }

    fn line(r#type: &str, detail: &str) -> String {
        format!(r#"{{"seq":1,"at":"1970-01-01T00:00:00.001Z","type":"{type}","detail":{detail}}}"#)
    }

    #[test]
    fn what_is_written_is_read_back() {
        for event in
            [Weather::SunRose { degrees: 3 }, Weather::RainFell(Box::new(Rain { millimetres: None }))]
        {
            let record = Record { seq: 7, at: Timestamp::from_millis(1), event };
            let (r#type, detail) = parts(&record.event).unwrap();
            let line = render(&record, "info", &r#type, "It \"is\" so.\n", &detail);
            assert!(line.starts_with("{\"seq\":7,\"at\":\"1970-"), "{line}");
            assert_eq!(parse(&line), Ok(record));
        }
    }

    #[test]
    fn a_type_that_is_not_known_means_nothing_whatever_its_detail() {
        for detail in ["{}", r#"{"a":[{"b":null}]}"#, "[1]", "null"] {
            assert_eq!(read(&line("snow.fell", detail)), Ok(Weather::Other), "{detail}");
        }
    }

    #[test]
    fn what_a_line_lacks_is_said() {
        let whole = line("sun.rose", r#"{"degrees":3,"more":[]}"#);
        assert_eq!(read(&whole), Ok(Weather::SunRose { degrees: 3 }));
        for (line, what) in [
            (line("sun.rose", "{}"), "missing field `degrees`"),
            (line("sun.rose", r#"{"degrees":"3"}"#), "invalid type: string \"3\", expected u64"),
            (whole.replace("seq", "other"), "missing field `seq`"),
            (whole.replace("\"at\"", "\"created_at\""), "missing field `at`"),
            (whole.replace("\"type\"", "\"kind\""), "missing field `type`"),
            (whole.replace("detail", "other"), "missing field `detail`"),
            (format!("{whole} x"), "trailing characters"),
            (whole[..whole.len() - 1].to_owned(), "EOF"),
        ] {
            let error = read(&line).unwrap_err();
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
