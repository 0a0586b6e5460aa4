//! What callers, children and neighbours may do wrong without anything that was acknowledged being lost.

use e2e::codex::Codex;
use e2e::http::{get, post, request};
use e2e::node::Node;
use e2e::process::{Launch, Process};
use e2e::wait::SOON;
use serde_json::{Value, json};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn nested(depth: usize) -> Vec<u8> {
    format!("{{\"metadata\":{}1{}}}", "{\"a\":".repeat(depth), "}".repeat(depth)).into_bytes()
}

#[test]
fn what_is_taken_can_be_read_back() {
    let mut node = Node::start(&Codex::Fake, &[]);
    let url = node.url("/v1/codexd/sessions");
    for depth in [10, 60, 63, 64, 100, 124, 126, 127, 5000] {
        let answer = request("POST", &url, &JSON, &nested(depth));
        if depth < 64 {
            answer.data(201)
        } else {
            answer.failure(400, "invalid_json")
        };
    }
    let before = get(&url).data(200)["sessions"].clone();
    assert_eq!(before.as_array().map(Vec::len), Some(3));
    node.crash();
    let after = get(&node.url("/v1/codexd/sessions")).data(200)["sessions"].clone();
    let ids = |sessions: &Value| {
        sessions.as_array().unwrap().iter().map(|s| s["sessionId"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&after), ids(&before));
}

#[test]
fn large_metadata_makes_short_pages_not_large_answers() {
    let node = Node::start(&Codex::Fake, &[]);
    let (deep, zeros) = (55, vec!["0"; 32_000].join(","));
    let body = format!("{{\"metadata\":{{\"a\":{}{zeros}{}}}}}", "[".repeat(deep), "]".repeat(deep));
    let url = node.url("/v1/codexd/sessions");
    for _ in 0..12 {
        request("POST", &url, &JSON, body.as_bytes()).data(201);
    }
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let page = get(&format!("{url}?{cursor}"));
        assert!(page.body.len() < 16 * 1024 * 1024, "{} bytes", page.body.len());
        let page = page.data(200);
        seen += page["sessions"].as_array().unwrap().len();
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, 12, "by pages all of them can be had");
    assert_eq!(get(&node.url("/v1/codexd/status")).data(200)["snapshot"]["sessionRegistry"]["count"], 12);
}

#[test]
fn a_position_that_no_log_has_is_refused() {
    let node = Node::start(&Codex::Fake, &[]);
    let stream = [("accept", "text/event-stream"), ("last-event-id", "18446744073709551615")];
    request("GET", &node.url("/v1/codexd/events"), &stream, b"").failure(400, "invalid_request");
}

#[test]
fn two_codexd_share_neither_state_nor_logs() {
    let node = Node::start(&Codex::Fake, &[]);
    let config = get(&node.url("/v1/codexd/status")).data(200);
    let root = config["snapshot"]["identity"]["repoRoot"].as_str().unwrap().to_owned();
    let other = e2e::temp::TempDir::new();
    for (mine, theirs) in [("--state-dir", "--logs-dir"), ("--logs-dir", "--state-dir")] {
        let shared = format!("{root}/{}", if theirs == "--logs-dir" { "logs" } else { "state" });
        let own = other.path().join(mine);
        let args =
            ["start", "--local-api-base", "http://127.0.0.1:0", mine, own.to_str().unwrap(), theirs, &shared];
        let mut second = Process::start(&Launch::of("codexd", other.path()).args(args));
        assert_eq!(second.wait(SOON).and_then(|status| status.code()), Some(1), "{}", second.stderr());
        assert!(second.stderr().contains("another codexd runs on"), "{}", second.stderr());
    }
    post(&node.url("/v1/codexd/sessions"), &json!({})).data(201);
}
