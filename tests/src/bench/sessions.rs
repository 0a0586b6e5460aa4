//! codexd with more and more sessions, and with a long log: what a request costs, what a start takes, what it holds in memory.

use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::bench::proc::{MB, Memory};
use crate::bench::report::Report;
use crate::bench::samples::Samples;
use crate::bench::start::says;
use crate::codex::Codex;
use crate::http::KeptAlive;
use crate::node::Node;
use crate::ports::free_port;
use crate::process::Launch;
use crate::reader::FLOOD;
use crate::temp::TempDir;

const BENCH: &str = "sessions";
const STARTING: &str = "sessions: starts";
const MEMORY: &str = "sessions: memory";
/// The one that makes some more comes last.
const KINDS: [&str; 4] = ["list", "read", "status", "create"];
/// Sessions, events in the log at least, and what that is called.
const CASES: [(usize, u64, &str); 4] = [
    (10, 0, "10 sessions"),
    (1_000, 0, "1 000 sessions"),
    (10_000, 0, "10 000 sessions"),
    (10_000, 1_000_000, "10 000 sessions, 1 000 000 events"),
];
/// Makers of sessions at once.
const MAKERS: usize = 10;
/// Events of one turn.
const TURN: &str = "[[items 250000 20]]";
/// Requests of each kind at each node.
const ROUNDS: usize = 200;
/// Ends and starts of each node.
const STARTS: usize = 5;
const MOST_CREATE: f64 = 1.5;
const MOST_READY_MS: f64 = 1000.0;

/// A codexd with so many sessions.
struct Sized {
    case: &'static str,
    node: Node,
    /// One of the sessions.
    session: String,
}

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    let mut nodes: Vec<Sized> = CASES.into_iter().map(Sized::start).collect();
    let created = requests(report, &nodes);
    report.at_most(
        "a session more: with 10 000, for each that it costs with 10",
        "times",
        created,
        MOST_CREATE,
    );
    let resident: Vec<f64> = nodes.iter().map(|node| node.tell_memory(report, "as they were made")).collect();
    let each = (resident[2] - resident[0]) / (CASES[2].0 - CASES[0].0) as f64;
    report.figure(MEMORY, "1 000 sessions more", "resident", "MB", each * 1000.0 / MB);
    let ready: Vec<f64> = starts(report, &mut nodes);
    for node in &nodes {
        node.tell_memory(report, "after a start");
    }
    report.at_most(
        "10 000 sessions, 1 000 000 events: from kill -9 to work that is taken",
        "ms",
        ready[3],
        MOST_READY_MS,
    );
}

impl Sized {
    #[track_caller]
    fn start((sessions, events, case): (usize, u64, &'static str)) -> Sized {
        let dir = TempDir::new();
        let launch = Launch::of("codexd", dir.path());
        let base = format!("http://127.0.0.1:{}", free_port());
        let node = Node::at(&base, &Codex::Fake, dir, launch, &["--log-total-bytes", "1073741824"]);
        node.ready();
        thread::scope(|scope| {
            for _ in 0..MAKERS {
                scope.spawn(|| (0..sessions / MAKERS).for_each(|_| drop(node.session(json!({})))));
            }
        });
        let session = node.session(json!({}));
        while node.latest() < events {
            let turn = node.say(&session, TURN);
            assert_eq!(node.end(&session, &turn, FLOOD), "completed");
        }
        let counted = node.status()["snapshot"]["sessionRegistry"]["count"].take();
        assert_eq!(counted, sessions + 1, "{case}");
        Sized { case, node, session }
    }

    fn tell_memory(&self, report: &mut Report, when: &str) -> f64 {
        let memory = Memory::of(self.node.codexd.pid());
        memory.tell(report, MEMORY, &format!("{}, {when}", self.case));
        memory.resident
    }
}

/// Each kind of request, at each node in turn: what making a session costs with the third, for each that it costs with the
/// first.
fn requests(report: &mut Report, nodes: &[Sized]) -> f64 {
    let open = |node: &Sized| KeptAlive::open(node.node.codexd.url());
    let mut connections: Vec<_> = nodes
        .iter()
        .map(|node| open(node).unwrap_or_else(|error| panic!("{}: {error}", node.case)))
        .collect();
    let mut created = Vec::new();
    for kind in KINDS {
        let mut times = vec![Samples::default(); nodes.len()];
        for _ in 0..ROUNDS {
            for ((node, connection), times) in nodes.iter().zip(&mut connections).zip(&mut times) {
                let begun = Instant::now();
                let answer = match kind {
                    "create" => connection.post("/v1/codexd/sessions", "{}"),
                    "list" => connection.get("/v1/codexd/sessions?limit=10"),
                    "read" => connection.get(&format!("/v1/codexd/sessions/{}", node.session)),
                    _ => connection.get("/v1/codexd/status"),
                };
                times.push(begun.elapsed());
                let answer = answer.unwrap_or_else(|error| panic!("{kind}: {error}"));
                assert_eq!(answer.status, if kind == "create" { 201 } else { 200 }, "{}", answer.text());
            }
        }
        for (node, times) in nodes.iter().zip(&times) {
            report.times(BENCH, &format!("{kind}, {}", node.case), times);
        }
        if kind == "create" {
            created = times.iter().map(|times| times.quantile(0.5).as_secs_f64()).collect();
        }
    }
    created[2] / created[0]
}

/// Ends each node by `kill -9` and starts it again, in turn: the median time to `/readyz`, in milliseconds.
fn starts(report: &mut Report, nodes: &mut [Sized]) -> Vec<f64> {
    let mut times = vec![[Samples::default(), Samples::default()]; nodes.len()];
    for _ in 0..STARTS {
        for (Sized { node, .. }, times) in nodes.iter_mut().zip(&mut times) {
            node.codexd.kill();
            let url = node.url("");
            let begun = Instant::now();
            thread::scope(|scope| {
                for (times, (path, text)) in
                    times.iter_mut().zip([("/healthz", "ok\n"), ("/readyz", "ready\n")])
                {
                    let url = &url;
                    scope.spawn(move || times.push(says(url, path, text, begun)));
                }
                node.crash();
            });
        }
    }
    for (node, [answers, ready]) in nodes.iter().zip(&times) {
        report.times(STARTING, &format!("the first answer, {}", node.case), answers);
        report.times(STARTING, &format!("work is taken, {}", node.case), ready);
    }
    times.iter().map(|[_, ready]| ready.quantile(0.5).as_secs_f64() * 1e3).collect()
}
