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
    let calls = [
        ("GET /v1/codex", "GET /v1/codexd/status"),
        ("GET /v1/codex/sessions?status=active&limit=5", "GET /v1/codexd/sessions?status=active&limit=5"),
        ("GET /v1/codex/sessions/session-demo", "GET /v1/codexd/sessions/session-demo"),
        ("POST /v1/codex/sessions", "POST /v1/codexd/sessions"),
        ("POST /v1/codex/sessions/session-demo/interrupt", "POST /v1/codexd/sessions/session-demo/interrupt"),
        ("POST /v1/codex/sessions/session-demo/close", "POST /v1/codexd/sessions/session-demo/close"),
        ("GET /v1/codex/sessions/a/transcript", "GET /v1/codexd/sessions/a/transcript"),
        ("POST /v1/codex/turn", "POST /v1/codexd/turn"),
        ("GET /v1/codex/turns/turn-1", "GET /v1/codexd/turns/turn-1"),
        (
            "GET /v1/codex/events?after=7&type=turn.*&session_id=s&limit=9&nothing=1",
            "GET /v1/codexd/events?after=7&sessionId=s&type=turn%2E%2A&limit=9",
        ),
        ("GET /v1/codex/approvals", "GET /v1/codexd/approvals"),
        ("POST /v1/codex/approvals/a-1", "POST /v1/codexd/approvals/a-1"),
        ("GET /v1/codex/models", "GET /v1/codexd/models"),
    ];
    for (call, asked) in calls {
        let (method, path) = call.split_once(' ').unwrap();
        assert_eq!(front.ask(method, path, "", "").status, 200, "{call}");
        assert_eq!(upstream.seen().last().unwrap().line, format!("{asked} HTTP/1.1"));
    }
    for path in ["/healthz", "/health", "/v1/runtime"] {
        front.get(path);
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), calls.len());
    assert_eq!(
        crate::routes::ROUTES.iter().filter(|row| row.path.starts_with("/v1/codex")).count(),
        calls.len()
    );
    for seen in seen {
        let expected =
            if seen.line.starts_with("POST") { ("{}", Some("application/json")) } else { ("", None) };
        assert_eq!((seen.body.as_str(), seen.header("content-type")), expected);
        assert_eq!(seen.header("accept"), Some("application/json"));
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1, "the connection is kept");
}

#[test]
fn a_body_reaches_codexd_under_its_names() {
    let upstream = echo(200);
    let front = Front::before(&upstream);
    for (path, given, passed) in [
        ("sessions", json!({"cwd": "/srv", "x": 1}), json!({"cwd": "/srv"})),
        ("turn", json!({"input": "Go.", "session_id": "s"}), json!({"input": "Go.", "sessionId": "s"})),
        ("sessions/s/interrupt", json!({"x": 1}), json!({})),
        ("sessions/s/close", json!({}), json!({})),
        ("approvals/a", json!({"decision": "accept", "x": 1}), json!({"decision": "accept"})),
        ("approvals/a", json!({"answers": {"q": ["yes"]}}), json!({"answers": {"q": ["yes"]}})),
    ] {
        front.post(&format!("/v1/codex/{path}"), &given.to_string());
        assert_eq!(upstream.seen().last().unwrap().json(), passed, "{path}");
    }
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
    front.post("/v1/codex/approvals/a%2Fb", "");
    assert_eq!(upstream.seen().pop().unwrap().line, "POST /v1/codexd/approvals/a%2Fb HTTP/1.1");
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
    assert_eq!(front.get("/v1/codex/turns/t?waitMs=20000").status, 200);
    assert_eq!(front.get("/v1/codex/events?waitMs=20000").status, 200);
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
    const CALLS: usize = common::client::MAX_IDLE_CONNECTIONS + 3;
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
    until(|| upstream.open.load(Ordering::SeqCst) == common::client::MAX_IDLE_CONNECTIONS);
}
