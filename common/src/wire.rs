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
    if body.is_empty() {
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

/// An object of these fields. To `collect` them would sort them first, with 4 KB of program for each kind of iterator.
pub fn object_of<N: Into<String>>(fields: impl IntoIterator<Item = (N, Value)>) -> Object {
    let mut object = Object::new();
    for (name, value) in fields {
        object.insert(name.into(), value);
    }
    object
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
        format!(
            "The request body must be application/json, not `{given}` (curl: -H 'content-type: application/json')."
        ),
    ))
}

/// Holds a body against its table. An explicit `null` counts as absent; unknown fields are ignored.
///
/// # Errors
/// `invalid_request`, naming the first field that is missing, of the wrong type or out of bounds.
pub fn check(fields: &[Field], map: &Object) -> Result<(), Error> {
    check_within("", fields, map)
}

/// The same for an object at `place`, as `steps[0].`.
fn check_within(place: &str, fields: &[Field], map: &Object) -> Result<(), Error> {
    for field in fields {
        let name = || format!("{place}{}", field.name);
        match map.get(field.name).filter(|value| !value.is_null()) {
            None if field.required => return Err(missing("Field", &name())),
            Some(value) if !field.kind.takes(value) => return Err(fault(&field.kind, value, &name())),
            _ => {}
        }
    }
    Ok(())
}

/// What is wrong with a value that its type does not take: the first thing within it, by its place.
fn fault(kind: &Type, value: &Value, name: &str) -> Error {
    let within = match (kind, value) {
        (Type::Record(record), Value::Object(map)) => {
            check_within(&format!("{name}."), record.fields, map).err()
        }
        (Type::List(of), Value::Array(items)) => {
            let bad = items.iter().enumerate().find(|(_, item)| !of.takes(item));
            bad.map(|(index, item)| fault(of, item, &format!("{name}[{index}]")))
        }
        _ => None,
    };
    within.unwrap_or_else(|| wrong("Field", name, kind))
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
            return Err(missing("Query value", field.name));
        }
        if values.any(|value| !field.kind.takes_text(value)) {
            return Err(wrong("Query value", field.name, &field.kind));
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

fn missing(what: &str, name: &str) -> Error {
    invalid(name, format!("{what} `{name}` is required."))
}

fn wrong(what: &str, name: &str, kind: &Type) -> Error {
    invalid(name, format!("{what} `{name}` must be {}.", kind.expectation()))
}

/// The error for a field, query value or header that is wrong: `invalid_request`, naming it.
pub fn invalid(name: &str, message: impl Into<String>) -> Error {
    Error::new(INVALID_REQUEST, message).details(json!({ "field": name }))
}

#[cfg(test)]
mod tests;
