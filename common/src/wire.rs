//! Bodies and query strings: one declaration makes the struct, its table of fields, and the parser.
//!
//! Dispatch, describe, OpenAPI and the docs read the same tables, so a document cannot disagree with the code. Knows
//! nothing of routes or of what a field means.

use serde_json::{Map, json};

pub use serde_json::Value;

use crate::Error;
use crate::error::{INVALID_JSON, INVALID_REQUEST, UNSUPPORTED_MEDIA_TYPE};

/// One named value of a body or a query string.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The name on the wire.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Type,
    /// Whether it must be there.
    pub required: bool,
    /// A sentence for the documents.
    pub summary: &'static str,
}

/// What a field may hold, with its bounds (inclusive).
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A string of at most so many bytes; `usize::MAX` leaves it to the body's bound.
    String {
        /// The longest one taken.
        max_bytes: usize,
    },
    /// A whole number.
    Integer {
        /// The smallest one taken.
        min: i64,
        /// The largest one taken.
        max: i64,
    },
    /// `true` or `false`.
    Boolean,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// A JSON object with these fields.
    Record(&'static Record),
    /// A JSON array of such items.
    List(&'static Type),
    /// One of these strings.
    Enum(&'static [&'static str]),
    /// Any JSON value but `null`.
    Any,
}

/// An object that has a name, so that documents tell once what it holds. In an answer an optional field may be `null`.
#[derive(Debug, PartialEq)]
pub struct Record {
    /// What documents call it, as `Session`.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
}

impl Type {
    /// What the value must be, as in "must be …".
    pub fn expectation(&self) -> String {
        match self {
            Type::String { max_bytes: usize::MAX } => "a string".to_string(),
            Type::String { max_bytes } => format!("a string of at most {max_bytes} bytes"),
            Type::Integer { min: i64::MIN, max: i64::MAX } => "an integer".to_string(),
            Type::Integer { min, max } => format!("an integer from {min} to {max}"),
            Type::Boolean => "true or false".to_string(),
            Type::Object => "an object".to_string(),
            Type::Array => "an array".to_string(),
            Type::Record(record) => format!("an object ({})", record.name),
            Type::List(_) => "an array".to_string(),
            Type::Enum(values) => format!("one of {}", values.join(", ")),
            Type::Any => "a value".to_string(),
        }
    }

    /// The record that it is, or is a list of.
    pub fn record(&self) -> Option<&'static Record> {
        match self {
            Type::Record(record) => Some(record),
            Type::List(of) => of.record(),
            _ => None,
        }
    }

    fn takes(&self, value: &Value) -> bool {
        match (self, value) {
            (Type::String { max_bytes }, Value::String(text)) => text.len() <= *max_bytes,
            (Type::Integer { min, max }, Value::Number(n)) => {
                n.as_i64().is_some_and(|n| (*min..=*max).contains(&n))
            }
            (Type::Enum(values), Value::String(text)) => values.contains(&text.as_str()),
            (Type::Boolean, Value::Bool(_)) | (Type::Object, Value::Object(_)) => true,
            (Type::Record(record), Value::Object(map)) => check(record.fields, map).is_ok(),
            (Type::List(of), Value::Array(items)) => items.iter().all(|item| of.takes(item)),
            (Type::Array, Value::Array(_)) | (Type::Any, _) => true,
            _ => false,
        }
    }

    fn takes_text(&self, text: &str) -> bool {
        match self {
            Type::Integer { .. } => match text.parse::<i64>() {
                Ok(n) if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') => self.takes(&json!(n)),
                _ => false,
            },
            Type::Boolean => text == "true" || text == "false",
            _ => self.takes(&json!(text)),
        }
    }
}

/// A table of fields: `fields![optional "limit": integer(1, 1000), "How many at most."; …]`.
///
/// Kinds: `string`, `string(max_bytes)`, `integer`, `integer(min, max)`, `boolean`, `object`, `array`,
/// `record(&RECORD)`, `records(&RECORD)`, `strings`, `one_of("a", "b")`, `any`.
#[macro_export]
macro_rules! fields {
    ($($need:ident $name:literal : $kind:ident $(($($bound:expr),+))?, $summary:literal;)*) => {
        &[$($crate::wire::Field {
            name: $name,
            kind: $crate::__wire_kind!($kind $(($($bound),+))?),
            required: $crate::__wire_required!($need),
            summary: $summary,
        }),*]
    };
}

/// A body: a struct, its `FIELDS`, and `parse`, from one declaration.
///
/// ```
/// common::body! {
///     /// Body of `POST /v1/tea`.
///     pub struct Tea {
///         required kind "teaKind": one_of("green", "black"), "Which tea.";
///         optional minutes "minutes": integer(1, 10), "How long it draws.";
///         optional extras "extras": any, "Whatever goes with it.";
///     }
/// }
/// let map = common::wire::object(br#"{"teaKind":"green","minutes":3}"#, None).unwrap();
/// let tea = Tea::parse(&map).unwrap();
/// assert_eq!((tea.kind.as_str(), tea.minutes, tea.extras), ("green", Some(3), None));
/// assert_eq!(Tea::FIELDS[0].name, "teaKind");
/// ```
///
/// The Rust types are `String`, `i64`, `bool`, `Map<String, Value>`, `Vec<Value>`, `String` (`one_of`) and `Value`;
/// an optional one is an `Option` of that.
#[macro_export]
macro_rules! body {
    (
        $(#[$doc:meta])* $vis:vis struct $body:ident {
            $($need:ident $field:ident $name:literal : $kind:ident $(($($bound:expr),+))?, $summary:literal;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $body {
            $(#[doc = $summary] pub $field: $crate::__wire_type!($need $kind),)*
        }

        impl $body {
            /// Name, type, bounds and summary of every field.
            $vis const FIELDS: &'static [$crate::wire::Field] =
                $crate::fields![$($need $name : $kind $(($($bound),+))?, $summary;)*];

            /// Reads a body.
            ///
            /// # Errors
            /// `invalid_request`, naming the field that is missing, of the wrong type or out of bounds.
            $vis fn parse(map: &$crate::wire::Object) -> Result<$body, $crate::Error> {
                $crate::wire::check(Self::FIELDS, map)?;
                Ok($body { $($field: $crate::wire::take(map, $name)?,)* })
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __wire_kind {
    (string) => { $crate::wire::Type::String { max_bytes: usize::MAX } };
    (string($max:expr)) => { $crate::wire::Type::String { max_bytes: $max } };
    (integer) => { $crate::wire::Type::Integer { min: i64::MIN, max: i64::MAX } };
    (integer($min:expr, $max:expr)) => { $crate::wire::Type::Integer { min: $min, max: $max } };
    (boolean) => { $crate::wire::Type::Boolean };
    (object) => { $crate::wire::Type::Object };
    (array) => { $crate::wire::Type::Array };
    (record($record:expr)) => { $crate::wire::Type::Record($record) };
    (records($record:expr)) => { $crate::wire::Type::List(&$crate::wire::Type::Record($record)) };
    (strings) => { $crate::wire::Type::List(&$crate::wire::Type::String { max_bytes: usize::MAX }) };
    (one_of($($value:expr),+)) => { $crate::wire::Type::Enum(&[$($value),+]) };
    (any) => { $crate::wire::Type::Any };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __wire_required {
    (required) => {
        true
    };
    (optional) => {
        false
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __wire_type {
    (optional $kind:ident) => { Option<$crate::__wire_type!(required $kind)> };
    (required string) => { String };
    (required integer) => { i64 };
    (required boolean) => { bool };
    (required object) => { $crate::wire::Object };
    (required array) => { Vec<$crate::wire::Value> };
    (required record) => { $crate::wire::Object };
    (required records) => { Vec<$crate::wire::Value> };
    (required strings) => { Vec<$crate::wire::Value> };
    (required one_of) => { String };
    (required any) => { $crate::wire::Value };
}

/// A JSON object.
pub type Object = Map<String, Value>;

/// How deep JSON from outside may be nested: what is stored of it stands a few levels deeper in logs and checkpoints, and
/// must be readable there, too; parsers stop at 128.
pub const MAX_DEPTH: usize = 64;
/// How many elements a body may have: each takes 50 bytes and more once it is parsed, whatever it took as text.
pub const MAX_ELEMENTS: usize = 200_000;

/// How far a JSON text goes, down and across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Arrays and objects within each other.
    pub depth: usize,
    /// Members and items, about: brackets and commas outside of strings.
    pub elements: usize,
}

/// Measures a JSON text without parsing it. Of what is no JSON it says something, too.
pub fn extent(text: &[u8]) -> Extent {
    let (mut depth, mut deepest, mut elements) = (0_usize, 0, 0);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
                elements += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => elements += 1,
            _ => {}
        }
    }
    Extent { depth: deepest, elements }
}

/// Reads a body as a JSON object; an empty one is an empty object.
///
/// # Errors
/// `unsupported_media_type` if the content type is given and not JSON; `invalid_json` if the text is not JSON or no
/// object.
pub fn object(body: &[u8], content_type: Option<&str>) -> Result<Object, Error> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Object::new());
    }
    media_type(content_type)?;
    let Extent { depth, elements } = extent(body);
    if depth > MAX_DEPTH || elements > MAX_ELEMENTS {
        let message = format!(
            "The request body may be nested {MAX_DEPTH} deep and have {MAX_ELEMENTS} elements; it has {depth} and {elements}."
        );
        return Err(Error::new(INVALID_JSON, message));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::new(INVALID_JSON, "The request body must be a JSON object.")),
        Err(error) => Err(Error::new(INVALID_JSON, format!("The request body is not valid JSON: {error}."))),
    }
}

/// Takes a body's media type if it is JSON or not given.
///
/// # Errors
/// `unsupported_media_type` for any other.
pub fn media_type(content_type: Option<&str>) -> Result<(), Error> {
    let Some(given) = content_type else { return Ok(()) };
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Error::new(
        UNSUPPORTED_MEDIA_TYPE,
        format!("The request body must be application/json, not `{given}`."),
    ))
}

/// Holds a body against its table. An explicit `null` counts as absent; unknown fields are ignored.
///
/// # Errors
/// `invalid_request`, naming the first field that is missing, of the wrong type or out of bounds.
pub fn check(fields: &[Field], map: &Object) -> Result<(), Error> {
    for field in fields {
        match map.get(field.name).filter(|value| !value.is_null()) {
            None if field.required => return Err(missing("Field", field)),
            Some(value) if !field.kind.takes(value) => return Err(wrong("Field", field)),
            _ => {}
        }
    }
    Ok(())
}

/// Holds a decoded query string against its table; every occurrence is checked, unknown names are ignored.
///
/// # Errors
/// `invalid_request`, naming the first value that is missing, of the wrong type or out of bounds.
pub fn query(fields: &[Field], pairs: &[(String, String)]) -> Result<(), Error> {
    for field in fields {
        let mut values =
            pairs.iter().filter(|(name, _)| name == field.name).map(|(_, value)| value).peekable();
        if field.required && values.peek().is_none() {
            return Err(missing("Query value", field));
        }
        if values.any(|value| !field.kind.takes_text(value)) {
            return Err(wrong("Query value", field));
        }
    }
    Ok(())
}

/// One line for each mistake in a table: empty or repeated names, empty summaries, impossible bounds.
pub fn faults(fields: &[Field]) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let mut fault = |text: &str| faults.push(format!("field `{}` {text}", field.name));
        if field.name.is_empty() || !field.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            fault("has no identifier for a name");
        }
        if fields[..index].iter().any(|other| other.name == field.name) {
            fault("is there twice");
        }
        if field.summary.trim().is_empty() {
            fault("has no summary");
        }
        match field.kind {
            Type::Integer { min, max } if min > max => fault("has no integer within its bounds"),
            Type::Enum([]) => fault("has no values"),
            Type::String { max_bytes: 0 } => fault("has no room for a string"),
            _ => {}
        }
        let within = field.kind.record().map(|record| self::faults(record.fields)).unwrap_or_default();
        faults.extend(within.into_iter().map(|inner| format!("field `{}`: {inner}", field.name)));
    }
    faults
}

/// The records that a table names, in its order and once each; what they hold themselves is among them.
pub fn records(fields: &[Field]) -> Vec<&'static Record> {
    let mut found: Vec<&Record> = Vec::new();
    for record in fields.iter().filter_map(|field| field.kind.record()) {
        for one in [record].into_iter().chain(records(record.fields)) {
            if !found.contains(&one) {
                found.push(one);
            }
        }
    }
    found
}

/// A Rust type that a field of a body becomes.
pub trait Taken: Sized {
    /// The value as this type; `None` if it is of another type, or absent where it must not be.
    fn taken(value: Option<&Value>) -> Option<Self>;
}

macro_rules! taken {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {
        $(impl Taken for $type {
            fn taken(value: Option<&Value>) -> Option<Self> {
                match value { $pattern => Some($value), _ => None }
            }
        })*
    };
}

taken! {
    String: Some(Value::String(text)) => text.clone();
    bool: Some(Value::Bool(yes)) => *yes;
    Object: Some(Value::Object(map)) => map.clone();
    Vec<Value>: Some(Value::Array(items)) => items.clone();
    Value: Some(value) => value.clone();
}

impl Taken for i64 {
    fn taken(value: Option<&Value>) -> Option<Self> {
        value?.as_i64()
    }
}

impl<T: Taken> Taken for Option<T> {
    fn taken(value: Option<&Value>) -> Option<Self> {
        match value {
            None | Some(Value::Null) => Some(None),
            value => T::taken(value).map(Some),
        }
    }
}

/// Reads one field of a body that `check` has passed.
///
/// # Errors
/// `invalid_request`, naming the field, if it has another type.
pub fn take<T: Taken>(map: &Object, name: &'static str) -> Result<T, Error> {
    T::taken(map.get(name)).ok_or_else(|| invalid(name, format!("Field `{name}` is of the wrong type.")))
}

fn missing(what: &str, field: &Field) -> Error {
    invalid(field.name, format!("{what} `{}` is required.", field.name))
}

fn wrong(what: &str, field: &Field) -> Error {
    invalid(field.name, format!("{what} `{}` must be {}.", field.name, field.kind.expectation()))
}

/// The error for a field, query value or header that is wrong: `invalid_request`, naming it.
pub fn invalid(name: &str, message: impl Into<String>) -> Error {
    Error::new(INVALID_REQUEST, message).details(json!({ "field": name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    body! {
        /// A body with one field of each kind.
        struct Sample {
            required name "name": string(5), "A name.";
            optional text "text": string, "Any text.";
            optional count "count": integer(1, 10), "A count.";
            optional any_count "anyCount": integer, "Any count.";
            optional flag "flag": boolean, "A flag.";
            optional map "map": object, "An object.";
            optional list "list": array, "An array.";
            optional mode "mode": one_of("a", "b"), "A mode.";
            optional any "any": any, "Anything.";
            optional part "part": record(&PART), "A record.";
            optional parts "parts": records(&PART), "Records.";
            optional words "words": strings, "Words.";
        }
    }

    static PART: Record = Record {
        name: "Part",
        fields: fields![required "id": integer(1, 9), "An id."; optional "a": any, "More.";],
    };

    fn parse(text: &str) -> Result<Sample, Error> {
        Sample::parse(&object(text.as_bytes(), None)?)
    }

    #[test]
    fn json_is_bounded_in_depth_and_elements() {
        let cases = [
            ("{}", 1, 1),
            (r#"{"a":[1,2],"b":{}}"#, 2, 5),
            (r#"{"a":"[[[,,,\"[[["}"#, 1, 1),
            (r#"{"a":"\\","b":[]}"#, 2, 3),
            ("]]][", 1, 1),
        ];
        for (text, depth, elements) in cases {
            assert_eq!(extent(text.as_bytes()), Extent { depth, elements }, "{text}");
        }
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
        assert!(object(nested(MAX_DEPTH).as_bytes(), None).is_ok());
        assert_eq!(object(nested(MAX_DEPTH + 1).as_bytes(), None).unwrap_err().code, INVALID_JSON);
        let wide = |n: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(n - 2));
        assert!(object(wide(MAX_ELEMENTS).as_bytes(), None).is_ok());
        assert_eq!(object(wide(MAX_ELEMENTS + 1).as_bytes(), None).unwrap_err().code, INVALID_JSON);
    }

    #[test]
    fn a_body_becomes_its_struct() {
        let text = r#"{"name":"n","text":"t","count":10,"anyCount":-1,"flag":true,"map":{"a":1},"list":[1],
            "mode":"b","any":[null],"unknown":1}"#;
        let sample = parse(text).unwrap();
        assert_eq!((sample.name.as_str(), sample.text.as_deref(), sample.count), ("n", Some("t"), Some(10)));
        assert_eq!(
            (sample.any_count, sample.flag, sample.mode.as_deref()),
            (Some(-1), Some(true), Some("b"))
        );
        assert_eq!(
            (sample.map.unwrap()["a"].clone(), sample.list, sample.any),
            (json!(1), Some(vec![json!(1)]), Some(json!([null])))
        );
        let nested =
            parse(r#"{"name":"n","part":{"id":1,"x":2},"parts":[{"id":9,"a":null}],"words":["w"]}"#).unwrap();
        assert_eq!((nested.part.unwrap()["id"].clone(), nested.parts.unwrap().len()), (json!(1), 1));
        assert_eq!(nested.words, Some(vec![json!("w")]));
        let absent = parse(r#"{"name":"n","text":null,"any":null}"#).unwrap();
        assert_eq!((absent.text, absent.any, absent.count), (None, None, None));
    }

    #[test]
    fn a_refusal_names_the_field_and_what_it_must_be() {
        for (text, message) in [
            ("{}", "Field `name` is required."),
            (r#"{"name":null}"#, "Field `name` is required."),
            (r#"{"name":7}"#, "Field `name` must be a string of at most 5 bytes."),
            (r#"{"name":"123456"}"#, "Field `name` must be a string of at most 5 bytes."),
            (r#"{"name":"n","text":{}}"#, "Field `text` must be a string."),
            (r#"{"name":"n","count":0}"#, "Field `count` must be an integer from 1 to 10."),
            (r#"{"name":"n","count":11}"#, "Field `count` must be an integer from 1 to 10."),
            (r#"{"name":"n","count":1.5}"#, "Field `count` must be an integer from 1 to 10."),
            (r#"{"name":"n","anyCount":18446744073709551615}"#, "Field `anyCount` must be an integer."),
            (r#"{"name":"n","flag":"true"}"#, "Field `flag` must be true or false."),
            (r#"{"name":"n","map":[]}"#, "Field `map` must be an object."),
            (r#"{"name":"n","list":{}}"#, "Field `list` must be an array."),
            (r#"{"name":"n","mode":"c"}"#, "Field `mode` must be one of a, b."),
            (r#"{"name":"n","part":{"id":0}}"#, "Field `part` must be an object (Part)."),
            (r#"{"name":"n","parts":[{"id":1},{}]}"#, "Field `parts` must be an array."),
            (r#"{"name":"n","words":["a",1]}"#, "Field `words` must be an array."),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (INVALID_REQUEST, message), "{text}");
            assert!(message.contains(error.details.unwrap()["field"].as_str().unwrap()));
        }
    }

    #[test]
    fn only_json_objects_are_bodies() {
        for empty in ["", " \r\n"] {
            assert_eq!(object(empty.as_bytes(), Some("text/plain")).unwrap(), Object::new());
        }
        for text in ["[]", "1", "null", "{", "{}x", "{'a':1}", "\u{0}", &"[".repeat(100_000)] {
            assert_eq!(object(text.as_bytes(), None).unwrap_err().code, INVALID_JSON, "{text:.20}");
        }
        assert_eq!(object(b"\xff", None).unwrap_err().code, INVALID_JSON);
        for media in ["application/json", "APPLICATION/JSON ; charset=utf-8", "application/problem+json"] {
            assert!(object(b"{}", Some(media)).is_ok(), "{media}");
        }
        for media in ["", "text/json", "application/x-json", "json", "text/plain; application/json"] {
            assert_eq!(object(b"{}", Some(media)).unwrap_err().code, UNSUPPORTED_MEDIA_TYPE, "{media}");
        }
    }

    #[test]
    fn query_values_are_held_to_their_table() {
        let table: &[Field] = fields![
            optional "limit": integer(1, 10), "A limit.";
            optional "live": boolean, "Live.";
            optional "status": one_of("open", "closed"), "A status.";
            required "id": string(3), "An id.";
        ];
        let check = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            query(table, &pairs).map_err(|error| error.message)
        };
        assert_eq!(
            check(&[("id", "abc"), ("limit", "10"), ("live", "false"), ("status", "open"), ("x", "y")]),
            Ok(())
        );
        assert_eq!(check(&[]), Err("Query value `id` is required.".to_string()));
        for value in ["0", "11", "+5", "1e1", "", " 1", "99999999999999999999", "one"] {
            let message = "Query value `limit` must be an integer from 1 to 10.".to_string();
            assert_eq!(check(&[("id", "a"), ("limit", "1"), ("limit", value)]), Err(message), "{value}");
        }
        assert!(check(&[("id", "a"), ("live", "yes")]).is_err());
        assert!(check(&[("id", "a"), ("status", "Open")]).is_err());
        assert!(check(&[("id", "abcd")]).is_err());
    }

    #[test]
    fn mistakes_in_a_table_are_found() {
        assert_eq!(faults(Sample::FIELDS), Vec::<String>::new());
        let wrong: &[Field] = fields![
            optional "a b": string, "x";
            optional "a": string(0), "x";
            optional "a": integer(2, 1), " ";
        ];
        let expected = [
            "field `a b` has no identifier for a name",
            "field `a` has no room for a string",
            "field `a` is there twice",
            "field `a` has no summary",
            "field `a` has no integer within its bounds",
        ];
        assert_eq!(faults(wrong), expected);
        static INNER: Record = Record { name: "Inner", fields: fields![required "b": string, "";] };
        const NESTED: &[Field] = fields![required "a": records(&INNER), "x";];
        assert_eq!(faults(NESTED), ["field `a`: field `b` has no summary"]);
        assert_eq!(records(Sample::FIELDS), [&PART]);
        let none = [Field { name: "a", kind: Type::Enum(&[]), required: false, summary: "x" }];
        assert_eq!(faults(&none), ["field `a` has no values"]);
    }
}
