//! A notification of the child, with what codexd looks at picked out.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::value::{self, MapAccessDeserializer, StrDeserializer};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::cut::Whole;
use crate::state::TurnStatus;

/// A notification of the child, with what the state needs of it picked out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notice {
    /// As the child names it: `turn/started`.
    pub method: String,
    /// The session it belongs to, if codexd has one.
    pub session_id: Option<String>,
    /// The child's thread.
    pub thread_id: Option<String>,
    /// The child's turn.
    pub turn_id: Option<String>,
    /// The item of the turn.
    pub item_id: Option<String>,
    /// What kind of item that is.
    pub item_type: Option<String>,
    /// What `turn/completed` says of the turn.
    pub end: Option<TurnEnd>,
    /// All parameters, ids added; empty in replay, where nobody asks.
    pub detail: Map<String, Value>,
    /// How much memory it holds, about.
    pub bytes: usize,
    /// All parameters as they came, where the detail was cut and the transcript keeps the whole.
    pub whole: Option<Arc<Whole>>,
}

/// How a turn ended, in the child's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnEnd {
    /// The status that the child gives.
    pub status: TurnStatus,
    /// The message of its error.
    pub error: Option<String>,
}

impl Notice {
    /// Picks the ids out of a notification's parameters, and adds those that stand deeper to the top.
    pub fn new(method: String, detail: Map<String, Value>) -> Notice {
        let whole = Value::Object(detail);
        let known = Known::deserialize(&whole).unwrap_or_default();
        let mut notice = known.into_notice(method);
        if let Value::Object(detail) = whole {
            notice.detail = detail;
        }
        let ids = [("threadId", notice.thread_id.clone()), ("turnId", notice.turn_id.clone())];
        for (key, id) in ids {
            if let Some(id) = id {
                notice.detail.insert(key.to_owned(), Value::String(id));
            }
        }
        notice
    }

    /// Whether it is a piece of something that comes whole later.
    pub fn is_delta(&self) -> bool {
        self.method.ends_with("/delta") || self.method.ends_with("Delta")
    }

    /// Whether readers of recent events are spared it: deltas, token usage, rate limits.
    pub fn is_noise(&self) -> bool {
        self.is_delta()
            || matches!(self.method.as_str(), "thread/tokenUsage/updated" | "account/rateLimits/updated")
    }

    /// Whether transcripts keep it: what a turn came to, what it cost, and what may stay without an end of its own.
    pub fn is_transcribed(&self) -> bool {
        match self.method.as_str() {
            "item/started" => matches!(self.item_type.as_deref(), Some("commandExecution" | "fileChange")),
            "turn/started" | "item/completed" | "thread/tokenUsage/updated" | "turn/completed" => true,
            _ => false,
        }
    }

    pub(super) fn event_type(&self) -> String {
        match self.method.as_str() {
            "item/agentMessage/delta" => "app-server.turn.message.delta".to_owned(),
            method => format!("app-server.{}", method.replace('/', ".")),
        }
    }
}

/// What of a notification's parameters is looked at. Whatever has a wrong type is not there: the same when it comes from
/// the child as when it is read back from the log.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Known {
    session_id: Text,
    thread_id: Text,
    turn_id: Text,
    item_id: Text,
    thread: Object<Identified>,
    turn: Object<Identified>,
    item: Object<Identified>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Identified {
    id: Text,
    r#type: Text,
    status: Text,
    error: Object<TurnError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TurnError {
    message: Text,
}

/// A text, or nothing.
#[derive(Default)]
struct Text(Option<String>);

/// An object of this form; of anything else, what the form is without a field.
#[derive(Default)]
struct Object<T>(T);

/// What is made of a text and of an object; anything else is passed over, without a copy.
trait Lenient<'de>: Default {
    fn text(_: &str) -> Self {
        Self::default()
    }

    fn object<M: MapAccess<'de>>(map: M) -> Result<Self, M::Error> {
        IgnoredAny.visit_map(map).map(|_| Self::default())
    }
}

impl Lenient<'_> for Text {
    fn text(text: &str) -> Text {
        Text(Some(text.to_owned()))
    }
}

impl<'de, T: Default + Deserialize<'de>> Lenient<'de> for Object<T> {
    fn object<M: MapAccess<'de>>(map: M) -> Result<Object<T>, M::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Text, D::Error> {
        value.deserialize_any(Taken(PhantomData))
    }
}

impl<'de, T: Default + Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Object<T>, D::Error> {
        value.deserialize_any(Taken(PhantomData))
    }
}

struct Taken<T>(PhantomData<T>);

impl<'de, T: Lenient<'de>> Visitor<'de> for Taken<T> {
    type Value = T;

    fn expecting(&self, text: &mut fmt::Formatter) -> fmt::Result {
        text.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::text(text))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<T, M::Error> {
        T::object(map)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, seq: S) -> Result<T, S::Error> {
        IgnoredAny.visit_seq(seq).map(|_| T::default())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }
}

impl Known {
    pub(super) fn into_notice(self, method: String) -> Notice {
        let (Object(thread), Object(turn), Object(item)) = (self.thread, self.turn, self.item);
        let end = (method == "turn/completed").then(|| TurnEnd {
            status: turn.status.0.and_then(|status| status_of(&status)).unwrap_or_default(),
            error: turn.error.0.message.0,
        });
        Notice {
            thread_id: self.thread_id.0.or(thread.id.0),
            turn_id: self.turn_id.0.or(turn.id.0),
            item_id: self.item_id.0.or(item.id.0),
            item_type: item.r#type.0,
            session_id: self.session_id.0,
            end,
            method,
            detail: Map::new(),
            bytes: 0,
            whole: None,
        }
    }
}

fn status_of(status: &str) -> Option<TurnStatus> {
    TurnStatus::deserialize(StrDeserializer::<value::Error>::new(status)).ok()
}
