//! Rows of the table as JSON, in short and in full.

use common::http::{Form, Kind, Route, Surface};
use common::openapi::Token;
use common::wire::{self, Field, Type};
use serde_json::{Value, json};

/// Whether a description may show a row.
pub(super) fn is_shown<S>(route: &Route<S>) -> bool {
    route.describe && route.surface != Surface::Hidden
}

/// A row in short.
pub(super) fn brief<S>(route: &Route<S>, token: Token) -> Value {
    json!({
        "id": route.id,
        "method": route.method.as_str(),
        "path": route.path,
        "kind": match route.kind {
            Kind::Probe => "probe",
            Kind::Read => "read",
            Kind::Write => "write",
        },
        "auth": match token {
            Token::Never => "none",
            Token::FromOutside => "token_from_outside",
            Token::Always => "token",
        },
        "summary": route.summary,
    })
}

/// A row in full.
pub(super) fn full<S>(route: &Route<S>, token: Token) -> Value {
    let mut row = brief(route, token);
    row["path_parameters"] = route.params().collect();
    row["query"] = fields(route.query, "required");
    row["body"] = route.body.map_or(Value::Null, |body| fields(body, "required"));
    row["success"] = json!(route.success);
    row["returns"] = match route.form {
        Form::Data => fields(route.returns, "always"),
        Form::Bare(media) => json!(media),
    };
    row["event_stream"] = route.streams.into();
    row["websocket"] = route.upgrades().into();
    row["idempotency_key"] = route.keyed.into();
    row
}

/// The named types that these rows speak of.
pub(super) fn types<'a, S: 'static>(rows: impl Iterator<Item = &'a Route<S>>) -> Value {
    let fields_of = |route: &Route<S>| [route.body.unwrap_or_default(), route.returns];
    let records = rows.flat_map(fields_of).flat_map(wire::records);
    Value::Object(wire::object_of(records.map(|record| (record.name, fields(record.fields, "always")))))
}

/// `need` is what it is called that a field is there and not `null`.
fn fields(fields: &[Field], need: &str) -> Value {
    let one = |field: &Field| {
        let mut shown = json!({ "name": field.name, "type": name(&field.kind), need: field.required, "summary": field.summary });
        match field.kind {
            Type::String { max_bytes } if max_bytes != usize::MAX => shown["max_bytes"] = max_bytes.into(),
            Type::Integer { min, max } => {
                for (name, bound, none) in [("min", min, i64::MIN), ("max", max, i64::MAX)] {
                    if bound != none {
                        shown[name] = bound.into();
                    }
                }
            }
            Type::Enum(values) => shown["values"] = values.into(),
            _ => {}
        }
        shown
    };
    fields.iter().map(one).collect()
}

/// A type in a word: that of a record is its name, of a list that of its items with `[]`.
fn name(kind: &Type) -> String {
    match kind {
        Type::String { .. } | Type::Enum(_) => "string".to_string(),
        Type::Integer { .. } => "integer".to_string(),
        Type::Boolean => "boolean".to_string(),
        Type::Object => "object".to_string(),
        Type::Array => "array".to_string(),
        Type::Any => "any".to_string(),
        Type::Record(record) => record.name.to_string(),
        Type::List(of) => format!("{}[]", name(of)),
    }
}
