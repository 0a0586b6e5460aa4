//! `docs/api.md`, made of the daemons' own OpenAPI documents. Knows their form and no route.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

const INTRO: &str = "# API

<!-- Made of the tables of routes by a test; `UPDATE_GOLDEN=1 cargo test -p e2e the_api_page` writes it anew. -->

Both daemons answer with `{\"ok\": true, \"data\": …}` or `{\"ok\": false, \"error\": CODE, \"message\": …, \"details\": …}`,
with the call's `request_id` (codexd: `requestId`), which is also in the header `X-Request-Id`; a caller's own one is kept.
A running daemon shows the same as OpenAPI 3.1 at `/openapi.json`, and conductor in `/describe` for callers who read.

Access is *open* for everybody on this machine, or *token*: `Authorization: Bearer $BAA_SHARED_TOKEN`. With
`BAA_CONDUCTOR_AUTH=writes` every POST of conductor asks for the token, with `all` everything but the probes; and of callers
from outside (by another name than a loopback one, or through a proxy that says so) each POST asks for it anyway.

A `?` behind a type says that a value may be left out, and in an answer that it may be `null`.
";

/// The page; `daemons` are the names, the bases to print and the documents.
pub fn page(daemons: &[(&str, &str, Value)]) -> String {
    let mut page = INTRO.to_owned();
    let anywhere = anywhere(daemons);
    let codes: Vec<_> = anywhere.iter().map(|code| code.as_str()).collect();
    let _ = writeln!(
        page,
        "\nAny call may fail with {}; below stands what else a route may answer.",
        codes.join(", ")
    );
    let mut types = BTreeMap::new();
    for (name, base, document) in daemons {
        let own = document["servers"][0]["url"].as_str().unwrap_or_default();
        let document: Value =
            serde_json::from_str(&document.to_string().replace(own, base)).unwrap_or_default();
        let about = document["info"]["description"].as_str().unwrap_or_default();
        let _ = writeln!(page, "\n## {name}\n\n{about} Here at {base}.");
        for (path, item) in members(&document["paths"]) {
            for (method, operation) in members(item) {
                route(
                    &mut page,
                    &document,
                    &anywhere,
                    &format!("{} {path}", method.to_ascii_uppercase()),
                    operation,
                );
            }
        }
        types.extend(
            members(&document["components"]["schemas"]).map(|(name, schema)| (name.clone(), schema.clone())),
        );
    }
    types.remove("Failure");
    page += "\n## Types\n";
    for (name, schema) in &types {
        let _ = writeln!(page, "\n### {name}\n");
        fields(&mut page, schema);
    }
    page
}

fn route(page: &mut String, document: &Value, anywhere: &BTreeSet<String>, title: &str, operation: &Value) {
    let access = match &operation["security"].as_array().map_or(&[][..], Vec::as_slice) {
        [] => "open",
        [one] if one != &json!({}) => "token",
        _ => "token from outside",
    };
    let id = operation["operationId"].as_str().unwrap_or_default();
    let _ = writeln!(page, "\n### `{title}`\n\n{} (`{id}`, {access})\n", text(&operation["summary"]));
    let parameters: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
    let parameters = parameters.into_iter().map(|parameter| resolve(document, parameter));
    let shown: Vec<_> = parameters.filter(|parameter| parameter["name"] != "X-Request-Id").collect();
    if !shown.is_empty() {
        page.push_str("| parameter | in | type | |\n| --- | --- | --- | --- |\n");
        for parameter in shown {
            let kind = kind(&parameter["schema"], parameter["required"] == true);
            let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
            let _ = writeln!(page, "| `{name}` | {place} | {kind} | {} |", text(&parameter["description"]));
        }
        page.push('\n');
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if body.is_object() {
        page.push_str("Body:\n\n");
        fields(page, body);
        page.push('\n');
    }
    answers(page, document, anywhere, &operation["responses"]);
    if let Some(line) = operation["x-codeSamples"][0]["source"].as_str() {
        let _ = writeln!(page, "\n```sh\n{line}\n```");
    }
}

fn answers(page: &mut String, document: &Value, anywhere: &BTreeSet<String>, responses: &Value) {
    let done = members(responses).filter(|(status, _)| status.as_str() < "400");
    let (statuses, done): (Vec<_>, Vec<_>) =
        done.map(|(status, answer)| (format!("`{status}`"), answer)).unzip();
    let content = done.iter().map(|answer| &answer["content"]).find(|content| content.is_object());
    let media: Vec<_> =
        done.iter().flat_map(|answer| members(&answer["content"])).map(|(media, _)| media).collect();
    let media: BTreeSet<_> = media.iter().map(|media| format!("`{media}`")).collect();
    let media: Vec<_> = media.into_iter().collect();
    let is = if media.is_empty() { String::new() } else { format!(": {}", media.join(", ")) };
    let _ = writeln!(page, "Answers {}{is}", statuses.join(", "));
    let data = content.map(|content| &content["application/json"]["schema"]["properties"]["data"]);
    if let Some(data) = data.filter(|data| data.is_object()) {
        page.push('\n');
        fields(page, data);
    }
    let fails = codes(document, responses).filter(|(_, code)| !anywhere.contains(code));
    let fails: Vec<_> = fails.map(|(status, code)| format!("{status} {code}")).collect();
    if !fails.is_empty() {
        let _ = writeln!(page, "\nFails with {}", fails.join(", "));
    }
}

/// A table of an object's fields.
fn fields(page: &mut String, schema: &Value) {
    page.push_str("| field | type | |\n| --- | --- | --- |\n");
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().collect();
    for (name, field) in members(&schema["properties"]) {
        let kind = kind(field, required.iter().any(|required| *required == name));
        let _ = writeln!(page, "| `{name}` | {kind} | {} |", text(&field["description"]));
    }
}

fn kind(schema: &Value, required: bool) -> String {
    let mark = if required { "" } else { "?" };
    let one = |schema: &Value| match (&schema["$ref"], &schema["enum"], &schema["type"]) {
        (Value::String(name), ..) => {
            let name = name.rsplit('/').next().unwrap_or_default();
            format!("[{name}](#{})", name.to_ascii_lowercase())
        }
        (_, Value::Array(values), _) => {
            let values = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`"));
            values.collect::<Vec<_>>().join(" ")
        }
        (_, _, Value::String(name)) => name.clone(),
        (_, _, Value::Array(names)) => text(&names[0]).to_owned(),
        _ => "any".to_owned(),
    };
    let inner = if schema["anyOf"].is_array() { &schema["anyOf"][0] } else { schema };
    let bound = match (schema["minimum"].as_i64(), schema["maximum"].as_i64(), schema["maxLength"].as_i64()) {
        (Some(min), Some(max), _) if max != i64::MAX => format!(" {min} to {max}"),
        (Some(min), ..) => format!(" from {min}"),
        (_, _, Some(bytes)) => format!(" of {bytes} bytes"),
        _ => String::new(),
    };
    match inner["items"].is_object() {
        true => format!("list of {}{mark}", one(&inner["items"])),
        false => format!("{}{bound}{mark}", one(inner)),
    }
}

/// The codes that every operation of every document may fail with.
fn anywhere(daemons: &[(&str, &str, Value)]) -> BTreeSet<String> {
    let operations = daemons.iter().flat_map(|(_, _, document)| {
        let items = members(&document["paths"]).flat_map(|(_, item)| members(item));
        items.map(move |(_, operation)| {
            codes(document, &operation["responses"]).map(|(_, code)| code).collect()
        })
    });
    operations
        .reduce(|all: BTreeSet<String>, one| all.intersection(&one).cloned().collect())
        .unwrap_or_default()
}

/// Statuses and codes of failures, in order.
fn codes<'a>(document: &'a Value, responses: &'a Value) -> impl Iterator<Item = (&'a String, String)> {
    members(responses).filter(|(status, _)| status.as_str() >= "400").flat_map(|(status, answer)| {
        let codes = text(&resolve(document, answer)["description"]).split(", ");
        codes.map(move |code| (status, code.to_owned())).collect::<Vec<_>>()
    })
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let found = value["$ref"].as_str().and_then(|name| document.pointer(name.trim_start_matches('#')));
    found.unwrap_or(value)
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
