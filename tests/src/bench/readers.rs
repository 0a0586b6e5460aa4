//! From a line of the child to the message that a reader gets: with a few readers, with as many as there may be, at a pace
//! and as fast as it goes. Every reader checks that each number follows the one before.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use common::log::Seq;
use common::sys;
use serde_json::json;

use crate::bench::follower::{Follower, Form, age};
use crate::bench::report::Report;
use crate::bench::samples::Samples;
use crate::codex::Codex;
use crate::http::metric;
use crate::node::{Node, conductor};
use crate::reader::TURN_END;

const BENCH: &str = "readers";
/// As many as codexd takes; three in four are WebSockets, which is what most clients use.
const READERS: usize = 64;
const SSE_EVERY: usize = 4;
/// Events a second that 64 readers are to follow: a hundred agents that speak at once.
const RATE: usize = 2000;
const PACED: usize = 20_000;
const UNPACED: usize = 20_000;
/// The text of an event; with the rest a line has about 600 bytes.
const BYTES: usize = 100;
/// Where in a line its type stands.
const HEAD_BYTES: usize = 160;
/// When the one that stalls does so, and for how long. Then the one begins that reads the whole log.
const STALLS_AFTER: u64 = 4_000;
const STALLS_FOR: Duration = Duration::from_secs(5);

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    few(report);
    let node = Node::start(&Codex::Fake, &[]);
    node.ready();
    let session = node.session(json!({}));
    let mut followers: Vec<_> = (0..READERS).map(|number| follower(&node, number)).collect();
    unpaced(report, &node, &session, &mut followers);
    paced(report, &node, &session, followers);
    let resident = metric(node.codexd.url(), "process_resident_memory_bytes").unwrap_or_default();
    report.figure(BENCH, "codexd after both floods", "resident", "MB", resident / 1e6);
}

/// One reader of each kind, and little to do.
fn few(report: &mut Report) {
    let node = Node::start(&Codex::Fake, &[]);
    node.ready();
    let session = node.session(json!({}));
    let conductor = conductor(&node.dir, node.codexd.url());
    let of_codexd = node.url("/v1/codexd/events");
    let of_conductor = format!("{}/v1/codex/events", conductor.url());
    let ways = [
        ("of codexd, WebSocket", &of_codexd, Form::WebSocket),
        ("of codexd, SSE", &of_codexd, Form::Sse),
        ("through conductor, WebSocket", &of_conductor, Form::WebSocket),
        ("through conductor, SSE", &of_conductor, Form::Sse),
    ];
    let followers =
        ways.map(|(name, events, form)| (name, Follower::open(events, Some(node.latest()), form)));
    thread::scope(|scope| {
        let all =
            followers.map(|(name, mut follower)| (name, scope.spawn(move || to_the_end(&mut follower))));
        node.say(&session, &format!("[[items-at 200 1000 {BYTES}]]"));
        for (name, reading) in all {
            let ages = reading.join().unwrap_or_else(|_| panic!("a reader"));
            assert_eq!(ages.count(), 1000);
            report.times(BENCH, &format!("4 readers, 200 events/s: {name}"), &ages);
        }
    });
}

/// As fast as the child speaks.
fn unpaced(report: &mut Report, node: &Node, session: &str, followers: &mut [Follower]) {
    let case = "64 readers, as fast as it goes";
    let used = Used::of(node);
    let begun = Instant::now();
    node.say(session, &format!("[[items {UNPACED} {BYTES}]]"));
    thread::scope(|scope| {
        for follower in followers {
            scope.spawn(|| assert_eq!(to_the_end(follower).count(), UNPACED));
        }
    });
    let took = begun.elapsed().as_secs_f64();
    report.figure(BENCH, case, "until all have all", "s", took);
    report.figure(BENCH, case, "delivered", "1/s", (READERS * UNPACED) as f64 / took);
    used.show(report, node, case);
}

/// At a pace that all can keep; but one of them stalls, and one comes late and reads everything there ever was.
fn paced(report: &mut Report, node: &Node, session: &str, mut followers: Vec<Follower>) {
    let case = "64 readers, 2000 events/s";
    drop(followers.pop()); // the late one takes its place
    let Some(mut stalling) = followers.pop() else { return };
    let from = node.latest();
    let used = Used::of(node);
    let late_now = Barrier::new(2);
    node.say(session, &format!("[[items-at {RATE} {PACED} {BYTES}]]"));
    thread::scope(|scope| {
        let live: Vec<_> = followers
            .into_iter()
            .map(|mut follower| scope.spawn(move || to_the_end(&mut follower)))
            .collect();
        let stalled = scope.spawn(|| {
            let mut read = 0;
            while stalling.last < Some(from + STALLS_AFTER) {
                read += usize::from(age(stalling.next_event()).is_some());
            }
            late_now.wait();
            thread::sleep(STALLS_FOR);
            let (again, latest) = (Instant::now(), node.latest());
            let behind = latest - stalling.last.unwrap_or_default();
            let (ages, there) = past(&mut stalling, from, latest);
            (read + ages.count(), behind, there - again)
        });
        let late = scope.spawn(|| {
            late_now.wait();
            let (begun, latest) = (Instant::now(), node.latest());
            let mut late = Follower::open(&node.url("/v1/codexd/events"), Some(0), Form::WebSocket);
            (latest, past(&mut late, from, latest).1 - begun)
        });
        let mut ages = Samples::default();
        for reading in live {
            let of_one = reading.join().unwrap_or_else(|_| panic!("a reader"));
            assert_eq!(of_one.count(), PACED);
            ages.extend(of_one);
        }
        report.times(BENCH, case, &ages);
        report.at_most(
            "64 readers at 2000 events/s: a line to its message, p99",
            "ms",
            ages.quantile(0.99).as_secs_f64() * 1e3,
            20.0,
        );
        let (read, behind, took) = stalled.join().unwrap_or_else(|_| panic!("the one that stalls"));
        assert_eq!(read, PACED);
        caught_up(report, "one of them stalled for 5 s", behind, took);
        let (behind, took) = late.join().unwrap_or_else(|_| panic!("the late one"));
        caught_up(report, "one of them began at event 1", behind, took);
    });
    used.show(report, node, case);
}

fn caught_up(report: &mut Report, case: &str, behind: Seq, took: Duration) {
    report.figure(BENCH, case, "behind", "events", behind as f64);
    report.figure(BENCH, case, "caught up after", "ms", took.as_secs_f64() * 1e3);
}

fn follower(node: &Node, number: usize) -> Follower {
    let form = if number % SSE_EVERY == 1 { Form::Sse } else { Form::WebSocket };
    Follower::open(&node.url("/v1/codexd/events"), Some(node.latest()), form)
}

/// How old the items of a turn were when they came, up to its end.
fn to_the_end(follower: &mut Follower) -> Samples {
    past(follower, 0, 0).0
}

/// The same of a turn that began after `from`, and when the event `latest` had come.
fn past(follower: &mut Follower, from: Seq, latest: Seq) -> (Samples, Instant) {
    let (mut ages, mut there) = (Vec::new(), None);
    loop {
        let event = follower.next_event();
        let (age, end) = (age(event), is_end(event));
        ages.extend(age);
        if follower.last >= Some(latest) {
            there.get_or_insert_with(Instant::now);
        }
        if let (true, Some(there)) = (end && follower.last > Some(from), there) {
            return (ages.into_iter().collect(), there);
        }
    }
}

fn is_end(event: &[u8]) -> bool {
    let head = &event[..event.len().min(HEAD_BYTES)];
    head.windows(TURN_END.len()).any(|part| part == TURN_END.as_bytes())
}

/// Who has used the processors since then.
struct Used {
    begun: Instant,
    codexd: f64,
    bench: f64,
}

impl Used {
    fn of(node: &Node) -> Used {
        let codexd = metric(node.codexd.url(), "process_cpu_seconds_total").unwrap_or_default();
        let bench = sys::cpu_time().unwrap_or_default().as_secs_f64();
        Used { begun: Instant::now(), codexd, bench }
    }

    fn show(&self, report: &mut Report, node: &Node, case: &str) {
        let now = Used::of(node);
        report.figure(BENCH, case, "wall", "s", (now.begun - self.begun).as_secs_f64());
        report.figure(BENCH, case, "codexd's processor time", "s", now.codexd - self.codexd);
        report.figure(BENCH, case, "the readers'", "s", now.bench - self.bench);
    }
}
