//! Each of codexd's failures, as conductor shows it.

use std::net::Shutdown;
use std::sync::mpsc;

use serde_json::json;

use super::*;

const PATH: &str = "/v1/codexd/sessions";

/// Asks for the list of sessions, and expects this failure.
#[track_caller]
fn fails(upstream: &Upstream, status: u16, error: &str, message: &str, extra: Value) {
    let mut details = json!({ "target_base_url": upstream.base, "upstream_path": PATH });
    details.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let response = Front::before(upstream).get("/v1/codex/sessions");
    let expected = json!({ "ok": false, "error": error, "message": message, "details": details });
    assert_eq!((response.status, response.envelope()), (status, expected));
    assert_eq!(upstream.seen().len(), 1, "one call is one request");
}

/// Expects the failure of a codexd that gives no answer, whatever the system calls the cause.
#[track_caller]
fn unavailable(base: &str, response: &Response) -> String {
    let mut envelope = response.envelope();
    let cause = envelope["details"]["cause"].take();
    let expected = json!({
        "ok": false,
        "error": "codexd_unavailable",
        "message": format!("Independent codexd is unavailable at {base}."),
        "details": { "cause": null, "target_base_url": base, "upstream_path": PATH },
    });
    assert_eq!((response.status, envelope), (503, expected));
    cause.as_str().unwrap().to_string()
}

#[test]
fn not_configured() {
    let front = Front::start("");
    for (method, path) in [
        ("GET", "/v1/codex"),
        ("GET", "/v1/codex/sessions"),
        ("GET", "/v1/codex/sessions/session-1"),
        ("POST", "/v1/codex/sessions"),
        ("POST", "/v1/codex/turn"),
        ("GET", "/v1/codex/events"),
    ] {
        let response = front.ask(method, path, "", "");
        let expected = json!({
            "ok": false,
            "error": "codexd_not_configured",
            "message": "Independent codexd local API is not configured for /v1/codex routes.",
            "details": { "env_var": "BAA_CODEXD_LOCAL_API_BASE" },
        });
        assert_eq!((response.status, response.envelope()), (503, expected), "{method} {path}");
    }
}

#[test]
fn refuses() {
    // Bound and never accepting would hang; bound and dropped refuses.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let base = format!("http://{address}");
    let front = Front::start(&format!("--codexd-local-api {base}/"));
    let cause = unavailable(&base, &front.get("/v1/codex/sessions"));
    assert!(cause.contains("refused"), "{cause}");
}

fn short() -> Deadlines {
    let moment = Duration::from_millis(200);
    Deadlines { response: moment, body: moment, silence: moment, ..Deadlines::default() }
}

#[test]
fn hangs_before_the_head() {
    let (give_up, given_up) = mpsc::channel::<()>();
    let given_up = Mutex::new(given_up);
    let upstream = Upstream::start(move |_, _| {
        let _ = given_up.lock().unwrap().recv();
        closed()
    });
    let front = Front::with(&format!("--codexd-local-api {}", upstream.base), short());
    let cause = unavailable(&upstream.base, &front.get("/v1/codex/sessions"));
    assert!(cause.contains("timeout"), "{cause}");
    assert_eq!(upstream.seen().len(), 1);
    drop(give_up);
}

#[test]
fn hangs_in_the_body() {
    let (give_up, given_up) = mpsc::channel::<()>();
    let given_up = Mutex::new(given_up);
    let upstream = Upstream::start(move |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{{\"ok\"")?;
        let _ = given_up.lock().unwrap().recv();
        closed()
    });
    let front = Front::with(&format!("--codexd-local-api {}", upstream.base), short());
    let cause = unavailable(&upstream.base, &front.get("/v1/codex/sessions"));
    assert!(cause.contains("timeout"), "{cause}");
    drop(give_up);
}

#[test]
fn resets_before_and_in_the_answer() {
    let heads = [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"ok\": true, \"data\": {}}",
        "HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"ok\r\n",
    ];
    for head in heads {
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all(head.as_bytes())?;
            stream.shutdown(Shutdown::Both)?;
            closed()
        });
        unavailable(&upstream.base, &Front::before(&upstream).get("/v1/codex/sessions"));
        assert_eq!(upstream.seen().len(), 1, "never again by itself: {head}");
    }
}

#[test]
fn sends_no_json() {
    for status in [200, 404, 500] {
        let message = "Independent codexd returned invalid JSON for GET /v1/codexd/sessions.";
        for body in ["<html>", "{\"ok\": true, \"data\":", " ", "{} {}"] {
            fails(&Upstream::always(status, body), 502, "codexd_invalid_response", message, json!({}));
        }
    }
}

#[test]
fn refuses_with_an_envelope() {
    let plain = r#"{"ok": false, "error": "conflict", "message": "Busy.", "requestId": "x"}"#;
    fails(&Upstream::always(409, plain), 409, "conflict", "Busy.", json!({ "upstream_error": "conflict" }));
    let detailed =
        r#"{"ok": false, "error": "app_server_unavailable", "message": "Down.", "details": {"a": [1]}}"#;
    let extra = json!({ "upstream_error": "app_server_unavailable", "upstream_details": { "a": [1] } });
    fails(&Upstream::always(503, detailed), 503, "app_server_unavailable", "Down.", extra);
    let gone = r#"{"ok": false, "error": "no_such_session", "message": "Unknown codexd session \"x\".", "details": null}"#;
    let extra = json!({ "upstream_error": "no_such_session" });
    fails(&Upstream::always(404, gone), 404, "not_found", "Unknown codexd session \"x\".", extra);
}

#[test]
fn says_when_to_come_back() {
    let body = r#"{"ok": false, "error": "overloaded", "message": "Full."}"#;
    let upstream = Upstream::start(move |_, stream| answer(stream, 503, "Retry-After: 7\r\n", body));
    let response = Front::before(&upstream).get("/v1/codex/sessions");
    assert_eq!((response.status, response.header("retry-after")), (503, Some("7")));
}

#[test]
fn refuses_without_an_envelope() {
    let no_envelope = [
        "",
        "{}",
        "[]",
        "null",
        r#"{"ok": true, "error": "x", "message": "y"}"#,
        r#"{"ok": false, "error": 1, "message": "y"}"#,
    ];
    for body in no_envelope {
        for (status, error) in [
            (302, "codexd_proxy_error"),
            (404, "codexd_proxy_error"),
            (500, "codexd_unavailable"),
            (503, "codexd_unavailable"),
        ] {
            let message = format!("Independent codexd returned HTTP {status} for GET /v1/codexd/sessions.");
            fails(&Upstream::always(status, body), status, error, &message, json!({}));
        }
    }
}

#[test]
fn succeeds_with_something_else() {
    let message = "Independent codexd returned an unexpected payload for GET /v1/codexd/sessions.";
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "7",
        r#"{"ok": true}"#,
        r#"{"ok": false, "data": 1}"#,
        r#"{"ok": 1, "data": 1}"#,
    ] {
        fails(&Upstream::always(200, body), 502, "codexd_invalid_response", message, json!({}));
    }
}

#[test]
fn the_message_names_method_and_path() {
    let upstream = Upstream::always(200, "");
    let response =
        Front::before(&upstream).post("/v1/codex/turn?waitMs=0", r#"{"session_id": "s", "prompt": "p"}"#);
    let envelope = response.envelope();
    assert_eq!(
        envelope["message"],
        "Independent codexd returned an unexpected payload for POST /v1/codexd/turn."
    );
    assert_eq!(envelope["details"]["upstream_path"], "/v1/codexd/turn");
    assert_eq!(upstream.seen()[0].line, "POST /v1/codexd/turn?waitMs=0 HTTP/1.1");
}

#[test]
fn a_redirect_is_not_followed() {
    let upstream = Upstream::start(|_, stream| {
        answer(stream, 307, "Location: /v1/codexd/status\r\n", r#"{"ok": true, "data": 1}"#)
    });
    let message = "Independent codexd returned HTTP 307 for GET /v1/codexd/sessions.";
    fails(&upstream, 307, "codexd_proxy_error", message, json!({}));
}

#[test]
fn an_answer_over_the_bound_is_no_answer() {
    let padded = |bytes: usize| {
        Upstream::start(move |_, stream| {
            let json = br#"{"ok": true, "data": 1}"#;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")?;
            stream.write_all(&vec![b' '; bytes - json.len()])?;
            stream.write_all(json)
        })
    };
    let bound = usize::try_from(common::client::MAX_ANSWER_BYTES).unwrap();
    assert_eq!(Front::before(&padded(bound)).get("/v1/codex/sessions").status, 200);
    let message = "Independent codexd returned invalid JSON for GET /v1/codexd/sessions.";
    fails(&padded(bound + 1), 502, "codexd_invalid_response", message, json!({}));
}

#[test]
fn calls_are_counted_by_what_came_of_them() {
    let upstream = Upstream::start(|seen, stream| match seen.line.split(' ').nth(1).unwrap() {
        "/v1/codexd/models" => answer(stream, 200, "", r#"{"ok": true, "data": 1}"#),
        "/v1/codexd/approvals" => answer(stream, 200, "", "<html>"),
        "/v1/codexd/sessions" => closed(),
        _ => answer(stream, 404, "", r#"{"ok": false, "error": "not_found", "message": "no"}"#),
    });
    let count = |front: &Front, outcome: &str| {
        let page = front.get("/metrics").body;
        let name = format!("baa_conductor_upstream_request_duration_seconds_count{{outcome=\"{outcome}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<u64>().unwrap()
    };
    let front = Front::before(&upstream);
    for path in ["models", "models", "approvals", "sessions", "sessions/1", "events"] {
        front.get(&format!("/v1/codex/{path}"));
    }
    let outcomes = ["ok", "refused", "invalid", "unavailable"];
    assert_eq!(outcomes.map(|outcome| count(&front, outcome)), [2, 2, 1, 1]);
    assert_eq!(upstream.seen().len(), 6, "for the page nobody is asked");
    let alone = Front::start("");
    assert_eq!(alone.get("/v1/codex/models").status, 503);
    assert_eq!(outcomes.map(|outcome| count(&alone, outcome)), [0; 4], "no call was made");
}
