//! What reaches codexd, and what of its answers comes back.

use serde_json::json;

use super::*;

fn echo(status: u16) -> Upstream {
    Upstream::start(move |_, stream| {
        answer(stream, status, "", r#"{"ok": true, "data": {"b": 1, "a": [null, "x", 2.5]}}"#)
    })
}

#[test]
fn status_code_and_data_come_back_unchanged() {
    for status in [200, 201, 202, 299] {
        let front = Front::before(&echo(status));
        for response in [front.get("/v1/codex/sessions"), front.post("/v1/codex/turn", "{}")] {
            let expected = json!({ "ok": true, "data": { "b": 1, "a": [null, "x", 2.5] } });
            assert_eq!((response.status, response.envelope()), (status, expected));
            assert_eq!(response.header("content-type"), Some("application/json; charset=utf-8"));
            assert!(
                response.body.ends_with("}\n") && response.body.starts_with("{\n  \"ok\": true,\n"),
                "{}",
                response.body
            );
        }
    }
}

#[test]
fn one_call_is_one_request_to_the_route_of_the_same_meaning() {
    let upstream = echo(200);
    let front = Front::before(&upstream);
    front.get("/v1/codex");
    front.get("/v1/codex/sessions");
    front.get("/v1/codex/sessions/session-demo");
    front.post("/v1/codex/sessions", r#"{"cwd": "/srv", "model": "m", "purpose": "duplex"}"#);
    front.post("/v1/codex/turn", r#"{"input": "Summarize.", "sessionId": "session-demo"}"#);
    front.get("/v1/codex/events?after=7&wait_ms=10&nothing=1");
    front.get("/healthz");
    front.get("/health");
    front.get("/v1/runtime");
    let seen = upstream.seen();
    let lines: Vec<&str> = seen.iter().map(|seen| seen.line.as_str()).collect();
    let expected = [
        "GET /v1/codexd/status HTTP/1.1",
        "GET /v1/codexd/sessions HTTP/1.1",
        "GET /v1/codexd/sessions/session-demo HTTP/1.1",
        "POST /v1/codexd/sessions HTTP/1.1",
        "POST /v1/codexd/turn HTTP/1.1",
        "GET /v1/codexd/events?after=7 HTTP/1.1",
    ];
    assert_eq!(lines, expected);
    assert_eq!(seen[3].json(), json!({ "cwd": "/srv", "model": "m", "purpose": "duplex" }));
    assert_eq!(seen[4].json(), json!({ "input": "Summarize.", "sessionId": "session-demo" }));
    assert_eq!((seen[0].body.as_str(), seen[0].header("content-type")), ("", None));
    assert_eq!(seen[3].header("content-type"), Some("application/json"));
    assert!(seen.iter().all(|seen| seen.header("accept") == Some("application/json")));
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1, "the connection is kept");
}

#[test]
fn a_prompt_is_an_input_unless_there_is_one() {
    let upstream = echo(202);
    let front = Front::before(&upstream);
    front.post("/v1/codex/turn", r#"{"session_id": "s", "prompt": "p", "effort": null, "x": 1}"#);
    front.post("/v1/codex/turn", r#"{"session_id": "s", "prompt": "p", "input": null}"#);
    front.post("/v1/codex/turn", r#"{"sessionId": "s", "input": [{"type": "text", "text_elements": []}]}"#);
    front.post("/v1/codex/sessions", "");
    let bodies: Vec<Value> = upstream.seen().iter().map(Seen::json).collect();
    assert_eq!(bodies[0], json!({ "sessionId": "s", "input": "p", "effort": null }));
    assert_eq!(bodies[1], json!({ "sessionId": "s", "input": null }));
    assert_eq!(bodies[2], json!({ "sessionId": "s", "input": [{ "type": "text", "text_elements": [] }] }));
    assert_eq!(bodies[3], json!({}));
}

#[test]
fn request_id_and_idempotency_key_go_upstream_and_nothing_else() {
    let upstream = echo(201);
    let front = Front::before(&upstream);
    let headers =
        "X-Request-Id: mine-1\r\nIdempotency-Key: k 1\r\nAuthorization: Bearer secret\r\nCookie: a=b\r\n";
    let response = front.ask("POST", "/v1/codex/sessions", headers, "{}");
    assert_eq!(response.header("x-request-id"), Some("mine-1"));
    let seen = upstream.seen().remove(0);
    assert_eq!((seen.header("x-request-id"), seen.header("idempotency-key")), (Some("mine-1"), Some("k 1")));
    assert_eq!((seen.header("authorization"), seen.header("cookie")), (None, None));
    let response = front.get("/v1/codex/sessions");
    assert_eq!(upstream.seen()[1].header("x-request-id"), response.header("x-request-id"));
}

#[test]
fn a_connection_that_codexd_has_closed_is_not_used_again() {
    let upstream = Upstream::start(|_, stream| {
        answer(stream, 200, "", r#"{"ok": true, "data": 1}"#)?;
        closed()
    });
    let front = Front::before(&upstream);
    for calls in 1..4 {
        assert_eq!(front.post("/v1/codex/turn", "{}").status, 200);
        until(|| upstream.open.load(Ordering::SeqCst) == 0);
        assert_eq!(upstream.seen().len(), calls);
    }
}

#[test]
fn an_id_cannot_leave_its_segment() {
    let upstream = echo(200);
    let front = Front::before(&upstream);
    front.get("/v1/codex/sessions/a%2F..%3Fb%23%20%C3%A9");
    front.get("/v1/codex/sessions/..");
    assert_eq!(upstream.seen()[0].line, "GET /v1/codexd/sessions/a%2F%2E%2E%3Fb%23%20%C3%A9 HTTP/1.1");
    assert_eq!(upstream.seen()[1].line, "GET /v1/codexd/sessions/%2E%2E HTTP/1.1");
}

#[test]
fn what_is_no_json_object_does_not_leave() {
    let upstream = echo(200);
    let front = Front::before(&upstream);
    for (body, status, error) in [("[]", 400, "invalid_json"), ("{", 400, "invalid_json")] {
        let response = front.post("/v1/codex/turn", body);
        assert_eq!((response.status, response.json()["error"].as_str()), (status, Some(error)));
    }
    let response = front.ask("POST", "/v1/codex/turn", "Content-Type: text/plain\r\n", "{}");
    assert_eq!((response.status, response.json()["error"].as_str()), (415, Some("unsupported_media_type")));
    let response = front.post("/v1/codex/turn?waitMs=600001", "{}");
    assert_eq!((response.status, response.json()["error"].as_str()), (400, Some("invalid_request")));
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn a_call_that_waits_may_take_longer() {
    let upstream = Upstream::start(|_, stream| {
        thread::sleep(Duration::from_millis(400));
        answer(stream, 200, "", r#"{"ok": true, "data": 1}"#)
    });
    let deadlines = Deadlines { response: Duration::from_millis(100), ..Deadlines::default() };
    let front = Front::with(&format!("--codexd-local-api {}", upstream.base), deadlines);
    assert_eq!(front.post("/v1/codex/turn?wait_ms=20000", "{}").status, 200);
    assert_eq!(front.post("/v1/codex/turn", "{}").status, 503);
}

#[test]
fn the_status_is_mapped() {
    let upstream = Upstream::always(
        200,
        r#"{"ok": true, "data": {"snapshot": {"identity": {"daemonId": "codexd-1"}}}}"#,
    );
    let response = Front::before(&upstream).get("/v1/codex");
    let data = &response.envelope()["data"];
    assert_eq!((&data["daemon"]["daemon_id"], &data["sessions"]["count"]), (&json!("codexd-1"), &json!(0)));
    assert_eq!(data["proxy"]["target_base_url"], upstream.base);
}

#[test]
fn only_so_many_connections_wait_for_the_next_call() {
    const CALLS: usize = crate::upstream::MAX_IDLE_CONNECTIONS + 3;
    let all_here = std::sync::Barrier::new(CALLS);
    let upstream = Upstream::start(move |_, stream| {
        all_here.wait();
        answer(stream, 200, "", r#"{"ok": true, "data": 1}"#)
    });
    let front = Front::before(&upstream);
    thread::scope(|scope| {
        for _ in 0..CALLS {
            scope.spawn(|| assert_eq!(front.get("/v1/codex/sessions").status, 200));
        }
    });
    assert_eq!(upstream.connections.load(Ordering::SeqCst), CALLS);
    until(|| upstream.open.load(Ordering::SeqCst) == crate::upstream::MAX_IDLE_CONNECTIONS);
}
