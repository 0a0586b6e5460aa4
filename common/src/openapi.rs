//! The table of routes as an OpenAPI 3.1 document. Pure: rows in, JSON out.
//!
//! Knows how the envelopes look and nothing of what a route does. Rows that are hidden are not in it.

use serde_json::{Map, Value, json};

use crate::error::Code;
use crate::example::Examples;
use crate::http::{self, Form, Kind, Method, Route, Style, Surface};
use crate::keys::MAX_KEY_BYTES;
use crate::wire::{self, Field, Type};

/// Whether a route asks for the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// It does not.
    Never,
    /// Of callers that may come from outside of this machine.
    FromOutside,
    /// Of everybody.
    Always,
}

/// What a document says that the table does not.
pub struct About<'a, S: 'static> {
    /// The program.
    pub title: &'a str,
    /// Its version.
    pub version: &'a str,
    /// A few sentences.
    pub description: &'a str,
    /// Where it is served, `http://HOST:PORT`.
    pub server: &'a str,
    /// How the envelopes spell their keys.
    pub style: Style,
    /// The table.
    pub routes: &'static [Route<S>],
    /// Which rows ask for the token.
    pub token: &'a dyn Fn(&Route<S>) -> Token,
}

/// The document.
pub fn document<S>(about: &About<S>) -> Value {
    let mut paths = Map::new();
    let mut failures = Map::new();
    for route in about.routes.iter().filter(|route| route.surface != Surface::Hidden) {
        let item = paths.entry(template(route.path)).or_insert_with(|| json!({}));
        item[route.method.as_str().to_ascii_lowercase()] = operation(about, route, &mut failures);
    }
    let records = http::records(about.routes).into_iter();
    let mut schemas = wire::object_of(records.map(|record| (record.name, object(record.fields))));
    schemas.insert("Failure".to_string(), failure(about.style));
    let mut components = json!({
        "headers": { "X-Request-Id": { "description": "Names the call in the log.", "schema": { "type": "string" } } },
        "parameters": parameters(),
        "responses": failures,
        "schemas": schemas,
    });
    if about.routes.iter().any(|route| (about.token)(route) != Token::Never) {
        components["securitySchemes"] = json!({
            "token": { "type": "http", "scheme": "bearer", "description": "BAA_SHARED_TOKEN of this node." },
        });
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": about.title, "version": about.version, "description": about.description },
        "servers": [{ "url": about.server }],
        "paths": paths,
        "components": components,
    })
}

/// `/a/:id` as `/a/{id}`.
fn template(path: &str) -> String {
    let segment = |segment: &str| match segment.strip_prefix(':') {
        Some(name) => format!("{{{name}}}"),
        None => segment.to_string(),
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

fn operation<S>(about: &About<S>, route: &Route<S>, failures: &mut Map<String, Value>) -> Value {
    let token = (about.token)(route);
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "tags": [tag(route.surface)],
        "parameters": parameters_of(route),
        "responses": responses(about.style, route, token, failures),
        "security": match token {
            Token::Never => json!([]),
            Token::FromOutside => json!([{}, { "token": [] }]),
            Token::Always => json!([{ "token": [] }]),
        },
    });
    if let Some(fields) = route.body.filter(|fields| !fields.is_empty()) {
        operation["requestBody"] = json!({
            "required": fields.iter().any(|field| field.required),
            "content": { "application/json": { "schema": object(fields) } },
        });
    }
    let token = |route: &Route<S>| (about.token)(route) == Token::Always;
    let examples = Examples { base: about.server, routes: about.routes, token: &token };
    if let Some(line) = examples.curl(route) {
        operation["x-codeSamples"] = json!([{ "lang": "Shell", "source": line }]);
    }
    operation
}

fn tag(surface: Surface) -> &'static str {
    match surface {
        Surface::Diagnostics => "diagnostics",
        Surface::Business => "business",
        Surface::Control => "control",
        Surface::Both | Surface::None | Surface::Hidden => "service",
    }
}

fn parameters() -> Value {
    json!({
        "X-Request-Id": {
            "name": "X-Request-Id", "in": "header", "schema": { "type": "string" },
            "description": "The caller's own name for the call, kept if it is 1 to 64 of `A-Z a-z 0-9 . _ -`.",
        },
        "Idempotency-Key": {
            "name": "Idempotency-Key", "in": "header",
            "schema": { "type": "string", "pattern": format!("^[!-~]{{1,{MAX_KEY_BYTES}}}$") },
            "description": "The same key and body gets the first answer again, for a day; another body is a conflict.",
        },
        "Last-Event-ID": {
            "name": "Last-Event-ID", "in": "header", "schema": { "type": "string", "pattern": "^[0-9]*$" },
            "description": "Begins behind this sequence number: where a stream was cut off. Wins over `after`.",
        },
    })
}

fn parameters_of<S>(route: &Route<S>) -> Vec<Value> {
    let within = |name: &str, place: &str, required: bool, schema: Value, summary: &str| json!({ "name": name, "in": place, "required": required, "schema": schema, "description": summary });
    let id = json!({ "type": "string", "minLength": 1 });
    let path = route.params().map(|name| within(name, "path", true, id.clone(), "Percent-encoded."));
    let query = route.query.iter();
    let query = query
        .map(|field| within(field.name, "query", field.required, schema(&field.kind, true), field.summary));
    let headers = [
        (true, "X-Request-Id"),
        (route.keyed, "Idempotency-Key"),
        (route.streams && route.method == Method::Get, "Last-Event-ID"),
    ];
    let headers = headers.into_iter().filter(|(takes, _)| *takes);
    let headers = headers.map(|(_, name)| json!({ "$ref": format!("#/components/parameters/{name}") }));
    path.chain(query).chain(headers).collect()
}

fn responses<S>(style: Style, route: &Route<S>, token: Token, failures: &mut Map<String, Value>) -> Value {
    let mut responses = Map::new();
    for status in route.success {
        let answer = if *status == 101 {
            json!({ "description": "A WebSocket, for a request that asks to become one." })
        } else {
            described("Done.", success(style, route, *status))
        };
        responses.insert(status.to_string(), answer);
    }
    let codes = route.failures(token != Token::Never);
    for of_status in codes.chunk_by(|a, b| a.status == b.status) {
        let status = of_status[0].status;
        let names: Vec<_> = of_status.iter().map(|code| code.name.as_ref()).collect();
        let plain = status == 503 && route.kind == Kind::Probe && route.form != Form::Data;
        let name = if plain { format!("{}.probe", names.join(".")) } else { names.join(".") };
        failures.entry(name.clone()).or_insert_with(|| refusal(of_status, plain));
        responses.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{name}") }));
    }
    Value::Object(responses)
}

/// What a success carries, by media type.
fn success<S>(style: Style, route: &Route<S>, status: u16) -> Value {
    let text = json!({ "schema": { "type": "string" } });
    let mut content = match route.form {
        Form::Bare("application/json") => json!({ "application/json": { "schema": { "type": "object" } } }),
        Form::Bare(media) => json!({ media: text.clone() }),
        Form::Data => {
            let schema = envelope(style, true, json!({ "data": object(route.returns) }), &["data"]);
            json!({ "application/json": { "schema": schema } })
        }
    };
    if route.streams && status == 200 {
        content["text/event-stream"] = text;
    }
    content
}

fn refusal(codes: &[&Code], plain: bool) -> Value {
    let names: Vec<_> = codes.iter().map(|code| format!("`{}`", code.name)).collect();
    let mut content = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Failure" } } });
    if plain {
        content["text/plain"] = json!({ "schema": { "type": "string" } });
    }
    described(&names.join(", "), content)
}

fn described(description: &str, content: Value) -> Value {
    let headers = json!({ "X-Request-Id": { "$ref": "#/components/headers/X-Request-Id" } });
    json!({ "description": description, "headers": headers, "content": content })
}

fn failure(style: Style) -> Value {
    let more = json!({
        "error": { "type": "string", "description": "A code to branch on." },
        "message": { "type": "string", "description": "A sentence for people." },
        "details": { "type": "object", "description": "What belongs to the code, if anything." },
    });
    envelope(style, false, more, &["error", "message"])
}

fn envelope(style: Style, ok: bool, more: Value, required: &[&str]) -> Value {
    let id = style.request_id();
    let required = [&["ok"], required, &[id]].concat();
    let mut envelope = json!({
        "type": "object",
        "required": required,
        "properties": { "ok": { "const": ok } },
    });
    if let Value::Object(more) = more {
        more.into_iter().for_each(|(name, schema)| envelope["properties"][name] = schema);
    }
    envelope["properties"][id] = json!({ "type": "string" });
    envelope
}

/// An object of these fields; an optional one may be `null`, and missing.
fn object(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let mut schema = schema(&field.kind, field.required);
        schema["description"] = field.summary.into();
        properties.insert(field.name.to_string(), schema);
    }
    let required: Vec<_> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn schema(kind: &Type, required: bool) -> Value {
    let typed = |name: &str| match required {
        true => json!({ "type": name }),
        false => json!({ "type": [name, "null"] }),
    };
    match kind {
        Type::String { max_bytes } => {
            let mut schema = typed("string");
            if *max_bytes != usize::MAX {
                schema["maxLength"] = (*max_bytes).into(); // of characters there are no more than bytes
            }
            schema
        }
        Type::Integer { min, max } => {
            let mut schema = typed("integer");
            for (name, bound, none) in [("minimum", min, i64::MIN), ("maximum", max, i64::MAX)] {
                if *bound != none {
                    schema[name] = (*bound).into();
                }
            }
            schema
        }
        Type::Boolean => typed("boolean"),
        Type::Object => typed("object"),
        Type::Array => typed("array"),
        Type::Record(record) => {
            let of = json!({ "$ref": format!("#/components/schemas/{}", record.name) });
            if required { of } else { json!({ "anyOf": [of, { "type": "null" }] }) }
        }
        Type::List(of) => {
            let mut schema = typed("array");
            schema["items"] = self::schema(of, true);
            schema
        }
        Type::Enum(values) => {
            let mut schema = typed("string");
            let null = (!required).then_some(Value::Null);
            schema["enum"] = values.iter().map(|value| json!(value)).chain(null).collect();
            schema
        }
        Type::Any if required => json!({ "not": { "type": "null" } }),
        Type::Any => json!({}),
    }
}

#[cfg(test)]
mod tests;
