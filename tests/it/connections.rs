//! Many connections at once, and large answers: every request gets its answer, and at once.

use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::KeptAlive;
use e2e::node::{Node, conductor};
use e2e::process::Daemon;
use serde_json::json;

/// A median above this is a delayed acknowledgement (40 ms) and no matter of load; an ordinary one is a tenth of it.
const PROMPT: Duration = Duration::from_millis(5);

fn node() -> (Node, Daemon) {
    let node = Node::start(&Codex::Fake, &[]);
    let conductor = conductor(&node.dir, node.codexd.url());
    (node, conductor)
}

/// Opens so many connections, then asks on all before any answer is read, again and again: each must get its own
/// answer each time, and all stay open to the end.
#[track_caller]
fn ask_all(url: &str, path: &str, connections: usize) {
    let mut open: Vec<_> = (0..connections)
        .map(|n| (n, KeptAlive::open(url).unwrap_or_else(|error| panic!("{n}: {error}"))))
        .collect();
    for round in 0..4 {
        for (n, connection) in &mut open {
            connection.ask(path, &format!("{round}-{n}")).unwrap();
        }
        for (n, connection) in &mut open {
            let answer = connection.answer();
            let answer =
                answer.unwrap_or_else(|error| panic!("{n} of {connections}, round {round}: {error}"));
            assert_eq!(answer.status, 200, "{n} of {connections}, round {round}: {}", answer.text());
            assert_eq!(answer.header("x-request-id"), Some(format!("{round}-{n}").as_str()));
        }
    }
}

#[test]
fn every_one_of_many_connections_is_answered() {
    let (node, conductor) = node();
    node.session(json!({}));
    for connections in [32, 200, 500] {
        for (url, path) in [
            (node.codexd.url(), "/healthz"),
            (node.codexd.url(), "/v1/codexd/sessions"),
            (conductor.url(), "/healthz"),
            (conductor.url(), "/v1/runtime"),
            (conductor.url(), "/v1/codex/sessions"), // as many calls of codexd at once
        ] {
            let start = Instant::now();
            ask_all(url, path, connections);
            figures::print(&format!(
                "{connections} connections at once, 4 x GET {path}: {:.0?}",
                start.elapsed()
            ));
        }
    }
}

#[test]
fn a_large_answer_is_not_held_back() {
    let (node, conductor) = node();
    let session = node.session(json!({"metadata": {"note": "x".repeat(20_000)}}));
    for (url, path) in [
        (node.codexd.url(), format!("/v1/codexd/sessions/{session}")),
        (conductor.url(), format!("/v1/codex/sessions/{session}")),
    ] {
        for requests in [1, 2] {
            // Other tests run beside this one: what counts is what it takes when they let it.
            let best = (0..10).map(|_| median(url, &path, requests)).find(|time| *time < PROMPT);
            let best = best.unwrap_or_else(|| panic!("no median of ten below {PROMPT:?} for {path}"));
            figures::print(&format!(
                "{requests} x 20 KB over a kept connection, GET {path}: median {best:.0?}"
            ));
        }
    }
}

/// The time of so many large answers to requests that were sent together.
fn median(url: &str, path: &str, requests: usize) -> Duration {
    let mut connection = KeptAlive::open(url).unwrap();
    let mut times: Vec<_> = (0..100)
        .map(|n| {
            let start = Instant::now();
            (0..requests).for_each(|_| connection.ask(path, &n.to_string()).unwrap());
            for _ in 0..requests {
                let answer = connection.answer().unwrap();
                assert!(answer.status == 200 && answer.body.len() > 20_000, "{}", answer.text());
            }
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}
