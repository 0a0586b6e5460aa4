//! The node's own facts, and who may ask.

use serde_json::json;

use super::*;
use crate::routes::ROUTES;

#[test]
fn the_table_has_no_faults() {
    assert_eq!(common::http::faults(ROUTES), Vec::<String>::new());
}

#[test]
fn probes_are_plain_text() {
    for (role, word) in [("primary", "leader\n"), ("standby", "standby\n")] {
        let front = Front::start(&format!("--role {role}"));
        for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n"), ("/rolez", word)] {
            let response = front.get(path);
            assert_eq!((response.status, response.body.as_str()), (200, body));
            assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
        }
    }
}

#[test]
fn the_snapshot_tells_what_runs_here() {
    let front = Front::start(
        "--control-api-base https://control.example.test/ --codexd-local-api http://127.0.0.1:4319/ \
         --shared-token replace-me --runs-dir /r --lease-ttl-sec 5",
    );
    let mut data = front.get("/v1/runtime").envelope()["data"].take();
    let started_at = data["runtime"]["startedAt"].take();
    assert!(common::time::Timestamp::parse(started_at.as_str().unwrap()).is_some());
    let port = front.address.port();
    let expected = json!({
        "identity": "mini-main@mini(primary)",
        "daemon": {
            "nodeId": "mini-main", "host": "mini", "role": "primary", "leaseState": "leader", "schedulerEnabled": true,
            "priority": 100, "preferred": false, "heartbeatIntervalMs": 5000, "leaseRenewIntervalMs": 5000,
            "leaseTtlSec": 5, "renewFailureThreshold": 2,
        },
        "controlApi": {
            "baseUrl": "https://control.example.test",
            "localApiBase": format!("http://127.0.0.1:{port}"),
            "firefoxWsUrl": format!("ws://127.0.0.1:{port}/ws/firefox"),
            "hasSharedToken": true,
            "usesPlaceholderToken": true,
        },
        "codexd": { "localApiBase": "http://127.0.0.1:4319" },
        "runtime": {
            "pid": std::process::id(), "started": true, "startedAt": null, "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": { "stateDir": front.dir.join("state/conductor"), "logsDir": front.dir.join("logs/conductor"), "runsDir": "/r" },
        "warnings": [
            "lease renew interval is >= lease TTL; leader renewals may race with lease expiry.",
            "BAA_SHARED_TOKEN is the placeholder `replace-me`; it is taken on loopback alone.",
        ],
    });
    assert_eq!(data, expected);
}

#[test]
fn health_version_and_the_unknown() {
    let front = Front::start("");
    assert_eq!(front.get("/health").envelope()["data"]["status"], "ok");
    assert_eq!(front.get("/version").envelope()["data"]["version"], env!("CARGO_PKG_VERSION"));
    let response = front.get("/v1/codex/runs");
    let expected = json!({ "ok": false, "error": "not_found", "message": "Unknown conductor route GET /v1/codex/runs." });
    assert_eq!((response.status, response.envelope()), (404, expected));
    let response = front.post("/v1/codex", "{}");
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn a_placeholder_opens_nothing_from_outside() {
    let upstream = Upstream::always(200, r#"{"ok": true, "data": 1}"#);
    let args =
        "--control-api-base https://control.example.test BAA_CONDUCTOR_AUTH=writes --shared-token replace-me";
    let front = Front::start(&format!("--codexd-local-api {} {args}", upstream.base));
    let token = "Authorization: Bearer replace-me\r\n";
    assert_eq!(front.ask("POST", "/v1/codex/sessions", token, "{}").status, 200);
    let outside = format!("Host: control.example.test:443\r\n{token}");
    assert_eq!(front.ask("POST", "/v1/codex/sessions", &outside, "{}").status, 401);
}

#[test]
fn a_host_that_nobody_named_is_refused() {
    let front = Front::start("");
    let response = front.ask("GET", "/health", "Host: evil.example\r\n", "");
    assert_eq!((response.status, response.envelope()["error"].as_str()), (403, Some("forbidden_host")));
}
