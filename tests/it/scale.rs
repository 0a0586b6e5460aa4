//! A state directory as it is after a year: what it costs to start on it, to add to it, and to hold it in memory.

#![cfg(target_os = "linux")] // what /proc tells

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::post;
use e2e::node::Node;
use e2e::process::resident_kb;
use e2e::reader::FLOOD;
use e2e::temp::TempDir;
use serde_json::json;

use crate::idle::build;

const SESSIONS: usize = 10_000;
const EVENTS: u64 = 1_000_000;
/// What a start may take until work is taken, by the release build.
const READY: Duration = Duration::from_secs(1);
/// What a session more may cost with so many, for each that it costs with ten.
const FACTOR: f64 = 1.5;
const MOST_RESIDENT_KB: u64 = 40 * 1024;
/// Starts and rounds are measured so often, for other tests run beside this one; the best counts.
const TRIES: usize = 5;

#[test]
fn ten_thousand_sessions_and_a_million_events() {
    let mut large = start(&["--log-total-bytes", "1073741824"]);
    let small = start(&[]);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..SESSIONS / 16).for_each(|_| drop(large.session(json!({})))));
        }
    });
    (0..10).for_each(|_| drop(small.session(json!({}))));
    let talker = large.session(json!({}));
    while large.latest() < EVENTS {
        let turn = large.say(&talker, "[[items 250000 20]]");
        assert_eq!(large.end(&talker, &turn, FLOOD), "completed");
    }
    let release = build("codexd", &TempDir::new()).1;
    let mut ready = Duration::MAX;
    for _ in 0..TRIES {
        large.codexd.kill();
        let started = Instant::now();
        large.crash();
        large.ready();
        ready = ready.min(started.elapsed());
    }
    let rounds: Vec<_> = (0..TRIES).map(|_| created(&large, &small)).collect();
    let factor_of = |(large, small): &(Duration, Duration)| large.as_secs_f64() / small.as_secs_f64();
    let (of_large, of_small) = *rounds.iter().min_by(|a, b| factor_of(a).total_cmp(&factor_of(b))).unwrap();
    let factor = factor_of(&(of_large, of_small));
    let resident = resident_kb(large.codexd.pid());
    let log: u64 = large.segments().iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    figures::print(&format!(
        "{SESSIONS} sessions and {EVENTS} events ({} MB): ready after {ready:?}, a session costs {of_large:?} against \
         {of_small:?} (factor {factor:.2}), {resident} KB resident",
        log / 1_000_000
    ));
    let counted = large.status()["snapshot"]["sessionRegistry"]["count"].take();
    assert!(counted.as_u64().unwrap() as usize >= SESSIONS, "{counted}");
    assert!(factor <= FACTOR, "{factor}");
    assert!(!release || (ready < READY && resident < MOST_RESIDENT_KB), "{ready:?}, {resident} KB");
}

fn start(args: &[&str]) -> Node {
    let dir = TempDir::new();
    let (launch, _) = build("codexd", &dir);
    let node = Node::with(&Codex::Fake, dir, launch, args);
    node.ready();
    node
}

/// The median times of making a session in two nodes, one here, one there.
fn created(large: &Node, small: &Node) -> (Duration, Duration) {
    let one = |node: &Node| {
        let started = Instant::now();
        post(&node.url("/v1/codexd/sessions"), &json!({})).data(201);
        started.elapsed()
    };
    let (mut of_large, mut of_small): (Vec<_>, Vec<_>) = (0..100).map(|_| (one(large), one(small))).unzip();
    of_large.sort();
    of_small.sort();
    (of_large[50], of_small[50])
}
