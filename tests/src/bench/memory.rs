//! What each daemon holds in memory: after its start, after light use, and when a load is over.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::bench::proc::{MB, Memory, Switches};
use crate::bench::report::Report;
use crate::bench::whole::{TOKEN, Whole};
use crate::http::{Events, KeptAlive, get, metric, request};
use crate::process::Daemon;
use crate::wait::eventually;

const BENCH: &str = "memory";
/// By then what a load leaves behind has ended: connections that idle, readers whose end is not yet seen.
const CALM: Duration = Duration::from_secs(120);
const MOST_IDLE_MB: f64 = 4.0;
const MOST_LATER_MB: f64 = 12.0;
const KEPT_ALIVE: usize = 32;
const REQUESTS: usize = 20_000;
const FRESH: usize = 1_000;
const TURNS: usize = 200;
/// Turns at once, in a session each.
const TALKERS: usize = 4;
/// The most that codexd has at once.
const READERS: usize = 64;
/// The largest file that conductor takes, and more than any other body that is good for something.
const BODY: usize = 10 * 1024 * 1024;

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    let node = Whole::start();
    look(report, &node, "after its start", MOST_IDLE_MB);
    node.light_use();
    look(report, &node, "after light use", MOST_IDLE_MB);
    load(&node);
    look(report, &node, "after load", MOST_LATER_MB);
}

/// What each holds once it is quiet again.
fn look(report: &mut Report, node: &Whole, when: &str, most: f64) {
    for (name, daemon) in node.daemons() {
        quiet(daemon);
        let memory = Memory::of(daemon.pid());
        memory.tell(report, BENCH, &format!("{name} {when}"));
        report.at_most(&format!("{name} {when}: resident"), "MB", memory.resident / MB, most);
    }
}

/// Waits until a daemon has had a second without a thread more or less, and with a few wake-ups at the most (conductor's beats).
#[track_caller]
fn quiet(daemon: &Daemon) {
    eventually("a quiet second", CALM, || {
        let before = Switches::of(daemon.pid());
        thread::sleep(Duration::from_secs(1));
        let after = Switches::of(daemon.pid());
        (after.threads == before.threads && after.wanted.abs_diff(before.wanted) < 20).then_some(())
    });
}

/// What a busy day brings, in a minute; every answer counts.
fn load(node: &Whole) {
    for (daemon, path) in [
        (&node.node.codexd, "/v1/codexd/status"),
        (&node.conductor, "/v1/codex"),
        (&node.status_api, "/v1/status"),
    ] {
        keep_asking(daemon, path);
        (0..FRESH).for_each(|_| assert_eq!(get(&format!("{}{path}", daemon.url())).status, 200));
    }
    thread::scope(|scope| {
        for _ in 0..TALKERS {
            scope.spawn(|| {
                let session = node.node.session(json!({}));
                (0..TURNS / TALKERS).for_each(|_| drop(node.node.turn(&session, "[[say it is done]]")));
            });
        }
    });
    for (daemon, path) in [
        (&node.node.codexd, "/v1/codexd/events"),
        (&node.conductor, "/v1/codex/events"),
        (&node.status_api, "/v1/events"),
    ] {
        let url = format!("{}{path}", daemon.url());
        let mut readers: Vec<_> = (0..READERS).map(|_| Events::open("GET", &url, &[], b"")).collect();
        readers.iter_mut().for_each(|reader| assert!(reader.next_data().is_some()));
        drop(readers);
        node.node.turn(&node.node.session(json!({})), "[[say nobody hears it]]"); // by which it finds them gone
        eventually("no stream that is held", CALM, || {
            (metric(node.node.codexd.url(), "baa_codexd_readers{kind=\"sse\"}") == Some(0.0)).then_some(())
        });
    }
    large_bodies(node);
}

/// So many requests on connections that stay open, a thread each.
fn keep_asking(daemon: &Daemon, path: &str) {
    thread::scope(|scope| {
        for _ in 0..KEPT_ALIVE {
            scope.spawn(|| {
                let opened = KeptAlive::open(daemon.url());
                let mut connection = opened.unwrap_or_else(|error| panic!("{path}: {error}"));
                for _ in 0..REQUESTS / KEPT_ALIVE {
                    let answer = connection.get(path).unwrap_or_else(|error| panic!("{path}: {error}"));
                    assert_eq!(answer.status, 200);
                }
            });
        }
    });
}

/// A file written and read through conductor, and a session whose request has as much in it that codexd has no use for.
fn large_bodies(node: &Whole) {
    let authorization = format!("Bearer {TOKEN}");
    let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
    let ask = |path: &str, body: serde_json::Value| {
        let url = format!("{}{path}", node.conductor.url());
        request("POST", &url, &headers, body.to_string().as_bytes())
    };
    let path = node.node.dir.path().join("large");
    let text = "x".repeat(BODY);
    ask("/v1/files/write", json!({ "path": path, "content": text })).data(200);
    ask("/v1/files/read", json!({ "path": path })).data(200);
    ask("/v1/codex/sessions", json!({ "cwd": node.node.dir.path(), "unknown": text })).data(201);
}
