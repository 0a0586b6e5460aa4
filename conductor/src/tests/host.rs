//! Host operations as callers see them: who may, what comes back, and what becomes of those who leave.

use std::path::PathBuf;
use std::{env, fs};

use serde_json::json;

use super::*;
use crate::host::tests::{long_sleep, runs};

const ROUTES: [&str; 3] = ["/v1/exec", "/v1/files/read", "/v1/files/write"];
const RIGHT: &str = "Content-Type: application/json\r\nAuthorization: Bearer secret\r\n";

/// A conductor with a token and an empty folder for its logs and whatever a test does.
fn front(name: &str) -> (Front, PathBuf) {
    let dir = env::temp_dir().join(format!("baa-front-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    (Front::start(&format!("--shared-token secret --logs-dir {}/logs", dir.display())), dir)
}

fn union(front: &Front, path: &str, body: &Value) -> Value {
    let response = front.ask("POST", path, RIGHT, &body.to_string());
    assert_eq!((response.status, response.json()["ok"].as_bool()), (200, Some(true)), "{response:?}");
    response.envelope()["data"].take()
}

fn code(union: &Value) -> &str {
    union["error"]["code"].as_str().unwrap_or("ok")
}

fn audit(dir: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("logs/conductor/audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn nobody_gets_in_without_the_token() {
    let (front, dir) = front("token");
    let json = "Content-Type: application/json\r\n";
    let body = r#"{"command":"true","path":"x","content":""}"#;
    for path in ROUTES {
        for wrong in [
            "",
            "Authorization: Bearer secreT\r\n",
            "Authorization: Basic secret\r\n",
            "Authorization: secret\r\n",
        ] {
            let response = front.ask("POST", path, &format!("{json}{wrong}"), body);
            assert_eq!((response.status, response.envelope()["error"].as_str()), (401, Some("unauthorized")));
            let asked = Some("Bearer realm=\"baa-conductor-host-ops\"");
            assert_eq!(response.header("www-authenticate"), asked);
        }
        let open = Front::start("BAA_CONDUCTOR_AUTH=host-ops");
        assert_eq!(open.ask("POST", path, RIGHT, body).status, 401, "no token is configured");
        assert_eq!(
            front.ask("POST", path, &format!("{RIGHT}Origin: https://evil.example\r\n"), body).status,
            403
        );
    }
    assert!(!dir.join("logs/conductor/audit.jsonl").exists(), "who may not leaves nothing, either");
    let placeholder = Front::start(&format!(
        "--shared-token replace-me --control-api-base https://control.example.test --logs-dir {}/others",
        dir.display()
    ));
    let token = format!("{json}Authorization: Bearer replace-me\r\n");
    assert_eq!(placeholder.ask("POST", "/v1/exec", &token, body).status, 200);
    let outside = format!("{token}Host: control.example.test\r\n");
    assert_eq!(placeholder.ask("POST", "/v1/exec", &outside, body).status, 401);
}

#[test]
fn what_is_wrong_inside_an_operation_is_told_in_its_union() {
    let (front, dir) = front("union");
    let empty = [
        json!({ "stdout": "", "stderr": "", "exitCode": null, "signal": null, "durationMs": 0, "startedAt": null,
            "finishedAt": null, "timedOut": false }),
        json!({ "absolutePath": null, "content": "", "bytes": 0, "encoding": "utf8" }),
        json!({ "absolutePath": null, "bytesWritten": 0, "created": false, "overwritten": false }),
    ];
    let given = json!({ "command": ["x"], "path": "", "content": "hidden", "cwd": "/tmp" });
    for (path, empty) in ROUTES.into_iter().zip(empty) {
        let union = union(&front, path, &given);
        assert_eq!((code(&union), &union["ok"]), ("INVALID_INPUT", &json!(false)));
        assert_eq!(
            (&union["operation"], &union["result"]),
            (&json!(path.strip_prefix("/v1/").unwrap()), &empty)
        );
        assert_eq!(union["error"]["retryable"], false);
        assert_eq!(union["input"]["cwd"], "/tmp");
        for body in ["[]", "1", "{", "\"x\""] {
            let response = front.ask("POST", path, RIGHT, body);
            assert_eq!((response.status, response.envelope()["error"].as_str()), (400, Some("invalid_json")));
        }
        assert_eq!(code(&self::union(&front, path, &json!({}))), "INVALID_INPUT");
    }
    let write = union(&front, "/v1/files/write", &given);
    assert_eq!((&write["input"]["contentBytes"], write["input"].get("content")), (&json!(6), None));
    let lines = audit(&dir);
    assert!(lines.iter().all(|line| line["outcome"] == "INVALID_INPUT"), "{lines:?}");
    assert_eq!(lines.len(), 7, "a line each; what is no JSON asks for nothing");
}

#[test]
fn fields_may_be_spelt_either_way() {
    let (front, dir) = front("spelling");
    let body = json!({ "command": "yes", "timeout_ms": 20_000, "max_buffer_bytes": 9, "maxBufferBytes": 10 });
    let exec = union(&front, "/v1/exec", &body);
    assert_eq!((code(&exec), &exec["result"]["stdout"]), ("EXEC_OUTPUT_LIMIT", &json!("y\ny\ny\ny\ny\n")));
    assert_eq!(exec["input"]["timeoutMs"], 20_000);
    let body = json!({ "path": "a/b", "cwd": dir, "content": "x", "create_parents": true });
    assert_eq!(code(&union(&front, "/v1/files/write", &body)), "ok");
}

#[test]
fn each_call_leaves_its_lines_and_never_a_content() {
    let (front, dir) = front("audit");
    let ask = |path: &str, body: Value| {
        let headers = format!("{RIGHT}X-Request-Id: id-1\r\n");
        assert_eq!(front.ask("POST", path, &headers, &body.to_string()).status, 200);
    };
    ask("/v1/exec", json!({ "command": "exit 3", "cwd": dir }));
    ask("/v1/files/write", json!({ "path": "new", "cwd": dir, "content": "confidential" }));
    ask("/v1/files/read", json!({ "path": "new", "cwd": dir }));
    ask("/v1/files/read", json!({ "path": "none", "cwd": dir }));
    let text = fs::read_to_string(dir.join("logs/conductor/audit.jsonl")).unwrap();
    assert!(!text.contains("confidential"), "{text}");
    let lines = audit(&dir);
    let seen: Vec<_> = ["operation", "what", "outcome"]
        .map(|key| lines.iter().map(|line| line[key].as_str().unwrap()).collect::<Vec<_>>())
        .into();
    assert_eq!(seen[0], ["exec", "exec", "files/write", "files/write", "files/read", "files/read"]);
    assert_eq!(seen[1], ["exit 3", "exit 3", "new", "new", "new", "none"]);
    assert_eq!(seen[2], ["started", "EXEC_EXIT_NON_ZERO", "started", "ok", "ok", "FILE_NOT_FOUND"]);
    for line in &lines {
        assert_eq!((&line["request_id"], &line["where"]), (&json!("id-1"), &json!(dir)));
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        assert_eq!(line["duration_ms"].is_null(), line["outcome"] == "started", "{line}");
    }
}

#[test]
fn without_an_audit_nothing_is_done() {
    let (front, dir) = front("no-audit");
    fs::create_dir_all(dir.join("logs/conductor/audit.jsonl")).unwrap(); // a folder, where a file should be
    fs::write(dir.join("file"), "old").unwrap();
    let target = dir.join("made");
    let bodies = [
        json!({ "command": format!("touch {}", target.display()) }),
        json!({ "path": target, "content": "" }),
    ];
    for (path, body) in ["/v1/exec", "/v1/files/write"].into_iter().zip(bodies) {
        let response = front.ask("POST", path, RIGHT, &body.to_string());
        assert_eq!((response.status, response.envelope()["error"].as_str()), (507, Some("storage_failed")));
    }
    assert!(!target.exists());
    let read = front.ask("POST", "/v1/files/read", RIGHT, &json!({ "path": dir.join("file") }).to_string());
    assert_eq!((read.status, read.envelope()["error"].as_str()), (507, Some("storage_failed")));
}

#[test]
fn commands_at_once_have_a_bound_and_a_stop_ends_them() {
    let (front, dir) = front("bound");
    let sleep = long_sleep(41);
    let body = json!({ "command": sleep }).to_string();
    let mut running: Vec<_> = (0..16).map(|_| front.send("POST", "/v1/exec", RIGHT, &body)).collect();
    until(|| audit(&dir).len() == 16);
    let response = front.ask("POST", "/v1/exec", RIGHT, &body);
    assert_eq!((response.status, response.envelope()["error"].as_str()), (429, Some("too_many_requests")));
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(audit(&dir).pop().unwrap()["outcome"], "too_many_requests");
    assert_eq!(code(&union(&front, "/v1/files/read", &json!({ "path": "/dev/null" }))), "NOT_A_FILE");
    let start = Instant::now();
    front.node.host.stop();
    for stream in &mut running {
        assert!(head(stream).unwrap().0.contains(" 200 "));
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("EXEC_FAILED") && rest.contains("conductor stops"), "{rest}");
    }
    assert!(start.elapsed() < Duration::from_secs(3) && !runs(&sleep), "{:?}", start.elapsed());
}

#[test]
fn a_caller_that_leaves_ends_its_command() {
    let (front, dir) = front("leaving");
    let sleep = long_sleep(51);
    let body = json!({ "command": format!("{sleep} & {sleep}") }).to_string();
    let stream = front.send("POST", "/v1/exec", RIGHT, &body);
    until(|| runs(&sleep));
    drop(stream);
    let start = Instant::now();
    until(|| audit(&dir).len() == 2);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!runs(&sleep));
    assert_eq!(audit(&dir).pop().unwrap()["outcome"], "EXEC_FAILED");
}
