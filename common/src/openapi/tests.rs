//! A small table and what becomes of it.

use super::*;
use crate::fields;
use crate::http::{Answer, Asks, Request};
use crate::wire::Record;

fn never(_: &(), _: &Request) -> Result<Answer, crate::Error> {
    unreachable!()
}

static TEA: Record = Record {
    name: "Tea",
    fields: fields![
        required "teaId": string, "Its id.";
        optional "kind": one_of("green", "black"), "Its kind.";
        optional "cups": integer(0, 9), "How many.";
    ],
};
const ONE: &[Field] = fields![required "tea": record(&TEA), "The tea.";];
const ALL: &[Field] = fields![required "teas": records(&TEA), "The teas."; optional "next": string, "More.";];
const BODY: &[Field] = fields![required "kind": string(5), "Its kind."; optional "extra": any, "More.";];

static TABLE: &[Route<()>] = &[
    Route::probe("probe.healthz", "/healthz", "Says ok.", never),
    Route::read("teas.list", "/teas", "The teas.", never)
        .query(fields![optional "limit": integer(1, 5), "How many.";])
        .returns(ALL),
    Route::write("teas.create", "/teas", "A tea.", BODY, never)
        .success(&[201])
        .keyed()
        .token()
        .example(r#"{"kind":"green"}"#)
        .returns(ONE),
    Route::read("teas.read", "/teas/:tea_id", "One tea.", never).asks(Asks::AppServer).returns(ONE),
    Route::read("events", "/events", "Events.", never).success(&[101, 200]).streams().returns(ALL),
    Route::read("openapi", "/openapi.json", "This.", never).bare("application/json"),
    Route::read("secret", "/runs", "Runs.", never).on(Surface::Hidden).returns(ONE),
];

fn made() -> Value {
    let token = |route: &Route<()>| match route.access {
        http::Access::Token => Token::Always,
        http::Access::Open if route.kind == Kind::Read => Token::FromOutside,
        http::Access::Open => Token::Never,
    };
    document(&About {
        title: "tea",
        version: "1",
        description: "Tea.",
        server: "http://h:1",
        style: Style::Snake,
        routes: TABLE,
        token: &token,
    })
}

#[test]
fn each_row_that_is_not_hidden_is_an_operation() {
    assert_eq!(http::faults(TABLE), Vec::<String>::new());
    let document = made();
    assert_eq!(
        (&document["openapi"], &document["servers"][0]["url"]),
        (&json!("3.1.0"), &json!("http://h:1"))
    );
    let paths = document["paths"].as_object().unwrap();
    let paths: Vec<_> = paths.keys().map(String::as_str).collect();
    assert_eq!(paths, ["/events", "/healthz", "/openapi.json", "/teas", "/teas/{tea_id}"]);
    assert!(!document.to_string().contains("/runs"));
    assert_eq!(document["paths"]["/teas"]["post"]["operationId"], "teas.create");
}

#[test]
fn fields_become_schemas_with_their_bounds() {
    let document = made();
    let tea = &document["components"]["schemas"]["Tea"];
    assert_eq!(tea["required"], json!(["teaId"]));
    assert_eq!(tea["properties"]["kind"]["enum"], json!(["green", "black", null]));
    let cups = json!({ "type": ["integer", "null"], "minimum": 0, "maximum": 9, "description": "How many." });
    assert_eq!(tea["properties"]["cups"], cups);
    let post = &document["paths"]["/teas"]["post"];
    assert_eq!(post["requestBody"]["required"], true);
    let body = &post["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(
        body["properties"]["kind"],
        json!({ "type": "string", "maxLength": 5, "description": "Its kind." })
    );
    assert_eq!(body["required"], json!(["kind"]));
    let list = &document["paths"]["/teas"]["get"];
    let limit = json!({
        "name": "limit", "in": "query", "required": false, "description": "How many.",
        "schema": { "type": "integer", "minimum": 1, "maximum": 5 },
    });
    assert_eq!(list["parameters"][0], limit);
    let data = list["responses"]["200"]["content"]["application/json"]["schema"].clone();
    assert_eq!(data["required"], json!(["ok", "data", "request_id"]));
    assert_eq!(
        data["properties"]["data"]["properties"]["teas"]["items"],
        json!({ "$ref": "#/components/schemas/Tea" })
    );
}

#[test]
fn answers_are_those_that_the_row_can_give() {
    let document = made();
    let statuses = |path: &str, method: &str| {
        let responses = document["paths"][path][method]["responses"].as_object().unwrap();
        responses.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(statuses("/healthz", "get"), "200 400 403 408 431 500 503 505");
    assert_eq!(statuses("/teas", "post"), "201 400 401 403 408 409 413 415 429 431 500 503 505 507");
    assert_eq!(statuses("/teas/{tea_id}", "get"), "200 400 401 403 404 408 431 500 502 503 504 505 507");
    assert_eq!(statuses("/events", "get"), "101 200 400 401 403 408 426 431 500 503 505 507");
    let content = |path: &str, status: &str| {
        let mut answer = &document["paths"][path]["get"]["responses"][status];
        if let Some(name) = answer["$ref"].as_str() {
            answer = document.pointer(name.trim_start_matches('#')).unwrap();
        }
        answer["content"].as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(content("/healthz", "200"), "text/plain");
    assert_eq!(content("/healthz", "503"), "application/json text/plain");
    assert_eq!(content("/events", "200"), "application/json text/event-stream");
    assert_eq!(content("/events", "503"), "application/json");
    assert_eq!(content("/openapi.json", "200"), "application/json");
    let bare = &document["paths"]["/openapi.json"]["get"]["responses"]["200"];
    assert_eq!(bare["content"]["application/json"]["schema"], json!({ "type": "object" }));
}

#[test]
fn the_token_and_the_headers_stand_where_they_are_taken() {
    let document = made();
    let security = |path: &str, method: &str| document["paths"][path][method]["security"].clone();
    assert_eq!(security("/teas", "post"), json!([{ "token": [] }]));
    assert_eq!(security("/teas", "get"), json!([{}, { "token": [] }]));
    assert_eq!(security("/healthz", "get"), json!([]));
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let takes = |path: &str, method: &str, name: &str| {
        let parameters = document["paths"][path][method]["parameters"].to_string();
        parameters.contains(&format!("parameters/{name}\""))
    };
    assert!(takes("/teas", "post", "Idempotency-Key") && !takes("/teas", "get", "Idempotency-Key"));
    assert!(takes("/events", "get", "Last-Event-ID") && takes("/healthz", "get", "X-Request-Id"));
    let sample = document["paths"]["/teas"]["post"]["x-codeSamples"][0]["source"].as_str().unwrap();
    assert!(
        sample.contains("Bearer $BAA_SHARED_TOKEN") && sample.ends_with(r#"-d '{"kind":"green"}'"#),
        "{sample}"
    );
}
