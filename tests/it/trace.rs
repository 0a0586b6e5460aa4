//! What the daemons say on stderr: one call has one id in both, as text and as JSON, and no caller forges or floods it.

use std::time::Duration;

use e2e::codex::Codex;
use e2e::http::{get, raw, request};
use e2e::node::{Node, conductor_launch, status_api_launch};
use e2e::process::{Daemon, Launch};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

const ID: &str = "trace-me-1";

/// A codexd with a conductor before it, both at `debug`, in that form.
fn bench(form: &str) -> (Node, Daemon) {
    let dir = TempDir::new();
    let told = |name: &str, dir: &TempDir| {
        Launch::of(name, dir.path()).env("BAA_LOG", "debug").env("BAA_LOG_FORMAT", form)
    };
    let launch = told("codexd", &dir);
    let node = Node::with(&Codex::Fake, dir, launch, &[]);
    let conductor = Daemon::start(&conductor_launch(told("conductor", &node.dir), node.codexd.url()));
    (node, conductor)
}

/// The line of the one request with that id.
#[track_caller]
fn line(daemon: &Daemon, id: &str) -> String {
    eventually("a line of the request", SOON, || {
        let text = daemon.stderr();
        let mut lines = text.lines().filter(|line| line.contains(id)).map(str::to_owned);
        let line = lines.next();
        assert_eq!(lines.next(), None);
        line
    })
}

#[test]
fn one_call_has_one_id_in_both_daemons() {
    for form in ["text", "json"] {
        let (node, conductor) = bench(form);
        let url = format!("{}/v1/codex/sessions?limit=7", conductor.url());
        request("GET", &url, &[("x-request-id", ID), ("authorization", "Bearer s3cret")], b"").data(200);
        for (daemon, path) in [(&conductor, "/v1/codex/sessions"), (&node.codexd, "/v1/codexd/sessions")] {
            let line = line(daemon, ID);
            if form == "text" {
                let told = format!(" debug [{ID}] request method=GET path={path} status=200 duration_ms=");
                assert!(line.contains(&told), "{line}");
                continue;
            }
            let line: Value = serde_json::from_str(&line).unwrap();
            let told = ["level", "requestId", "message", "method", "path", "status"].map(|key| &line[key]);
            let wanted = ["debug", ID, "request", "GET", path].map(Value::from);
            assert_eq!(told[..5], wanted.iter().collect::<Vec<_>>(), "{line}");
            assert!(told[5] == 200 && line["duration_ms"].is_u64(), "{line}");
        }
        for daemon in [&conductor, &node.codexd] {
            let text = daemon.stderr();
            assert!(!text.contains("s3cret") && !text.contains("limit=7"), "{text}");
            let json = text
                .lines()
                .all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()));
            assert_eq!(json, form == "json", "{text}");
        }
    }
}

/// A node that works for months must not fill its disk with what callers ask.
#[test]
fn a_call_leaves_no_line_unless_it_is_asked_for() {
    let node = Node::start(&Codex::Fake, &[]);
    node.ready();
    let before = node.codexd.stderr();
    for path in ["/healthz", "/v1/codexd/sessions", "/nope"] {
        get(&node.url(path));
    }
    assert_eq!(request("POST", &node.url("/v1/codexd/turn"), &[], b"{").status, 400);
    assert_eq!(node.codexd.stderr(), before);
}

/// Each of these calls fails with a cause, which is a line at `error`.
#[test]
fn callers_cannot_flood_the_lines() {
    const CALLS: usize = 200;
    let dir = TempDir::new();
    let conductor =
        Daemon::start(&conductor_launch(Launch::of("conductor", dir.path()), "http://127.0.0.1:9"));
    let before = conductor.stderr().lines().count();
    for _ in 0..CALLS {
        assert_eq!(get(&format!("{}/v1/codex/sessions", conductor.url())).status, 503);
    }
    let text = conductor.stderr();
    let lines: Vec<&str> = text.lines().skip(before).collect();
    assert!((1..CALLS / 4).contains(&lines.len()), "{} lines of {CALLS} calls", lines.len());
    assert!(lines.iter().all(|line| line.contains("status=503 code=codexd_unavailable")), "{text}");
}

#[test]
fn a_path_from_outside_is_one_plain_value() {
    let (node, _conductor) = bench("text");
    let path = "/x%1b[2J%0afake\"=y";
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {ID}\r\nConnection: close\r\n\r\n");
    raw(node.codexd.url(), head.as_bytes());
    let line = line(&node.codexd, ID);
    assert!(line.contains(r#" path="/x%1b[2J%0afake\"=y" status=404 "#), "{line}");
}

#[test]
fn a_wrong_level_or_form_is_refused_by_all_three() {
    let dir = TempDir::new();
    for name in ["codexd", "conductor", "status-api"] {
        for (variable, value) in [("BAA_LOG", "loud"), ("BAA_LOG_FORMAT", "xml")] {
            let launch = Launch::of(name, &dir.folder(&format!("{name}-{variable}"))).args(["config"]);
            let (status, _, stderr) = launch.env(variable, value).run(SOON);
            assert_eq!(status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(variable) && stderr.contains("is none of"), "{stderr}");
        }
    }
}

#[test]
fn status_api_says_json_too_and_only_what_is_asked_for() {
    let dir = TempDir::new();
    let nobody = "http://127.0.0.1:9";
    let launch = status_api_launch(Launch::of("status-api", dir.path()), nobody, nobody);
    let mut daemon = Daemon::start(&launch.args(["--log-format", "json"]));
    daemon.terminate(Duration::from_secs(10));
    let text = daemon.stderr();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((&lines[0]["message"], &lines[0]["url"]), (&json!("listening"), &json!(daemon.url())));
    assert_eq!((&lines[1]["message"], &lines[1]["reason"]), (&json!("stopping"), &json!("SIGTERM")));
}
