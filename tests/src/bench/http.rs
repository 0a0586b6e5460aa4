//! `http`: the daemons' own HTTP server against the least one that has a thread for each connection (`floor`), against axum on
//! tokio and against Node's, all with the same answer; and the generator of this load against `wrk`.

use std::path::Path;
use std::time::Duration;

use crate::bench::load::{self, Load, MOST, Tally, Target};
use crate::bench::proc::processor;
use crate::bench::report::Report;
use crate::codex::Codex;
use crate::node::{Node, conductor, status_api};
use crate::process::{Daemon, Launch};
use crate::temp::TempDir;
use crate::wait::SOON;
use serde_json::json;

const NAME: &str = "http";
const ROUNDS: usize = 6;
const ROUND: Duration = Duration::from_millis(250);
/// `wrk` knows no less.
const WRK_ROUND: Duration = Duration::from_secs(1);
const WRK_ROUNDS: usize = 3;

const ONE: Load = Load { connections: 1, fresh: false, lasts: ROUND };
const MANY: Load = Load { connections: MOST, fresh: false, lasts: ROUND };
const FRESH: Load = Load { connections: 1, fresh: true, lasts: ROUND };
const MANY_FRESH: Load = Load { connections: MOST, fresh: true, lasts: ROUND };

/// Who is asked for what, and how; and what came of it.
struct Contest<'a> {
    who: &'static str,
    server: &'a Daemon,
    target: Target,
    how: &'static str,
    load: Load,
    tally: Tally,
    /// Processor time of the server, in seconds.
    processor: f64,
}

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    let dir = TempDir::new();
    let node = Node::start(&Codex::Fake, &[]);
    node.ready();
    node.session(json!({}));
    let conductor = conductor(&dir, node.codexd.url());
    let status_api = status_api(&dir, conductor.url(), node.codexd.url());
    let (floor, axum) = (
        Daemon::start(&Launch::of("floor", dir.path())),
        Daemon::start(&Launch::of("axum-floor", dir.path())),
    );
    let node_http = node_http(&dir);

    let probed = [
        ("floor", Some(&floor)),
        ("axum", Some(&axum)),
        ("Node", node_http.as_ref()),
        ("codexd", Some(&node.codexd)),
        ("conductor", Some(&conductor)),
        ("status-api", Some(&status_api)),
    ];
    let mut contests = Vec::new();
    let mut add = |who, server, path: &str, how, load| {
        let target = Target::of(&format!("{}{path}", Daemon::url(server)));
        contests.push(Contest { who, server, target, how, load, tally: Tally::default(), processor: 0.0 });
    };
    for (how, load) in [("kept, 1", ONE), ("kept, 32", MANY), ("fresh, 1", FRESH), ("fresh, 32", MANY_FRESH)]
    {
        for (who, server) in probed {
            if let Some(server) = server {
                add(who, server, "/healthz", how, load);
            }
        }
        if !load.fresh {
            add("codexd, a list of sessions", &node.codexd, "/v1/codexd/sessions", how, load);
            add("conductor, the system state", &conductor, "/v1/system/state", how, load);
        }
    }
    for _ in 0..ROUNDS {
        contests.iter_mut().for_each(Contest::round);
    }
    contests.iter().for_each(|contest| contest.tell(report));
    claim(report, &contests);
    against_wrk(report, &dir, [("floor", &floor), ("codexd", &node.codexd)]);
}

impl Contest<'_> {
    fn round(&mut self) {
        let before = processor(self.server.pid());
        self.tally.add(load::run(&self.target, self.load));
        self.processor += processor(self.server.pid()) - before;
    }

    fn tell(&self, report: &mut Report) {
        let (case, tally) = (format!("{}: {}", self.how, self.who), &self.tally);
        report.times(NAME, &case, &tally.times);
        report.figure(NAME, &case, "rate", "1/s", tally.per_second());
        let each = self.processor / tally.times.count() as f64;
        report.figure(NAME, &case, "processor", "µs", each * 1e6);
        report.figure(NAME, &case, "unanswered", "", tally.unanswered as f64);
    }
}

fn claim(report: &mut Report, contests: &[Contest]) {
    let find = |who: &str, how: &str| {
        let found = contests.iter().find(|contest| contest.who == who && contest.how == how);
        &found.unwrap_or_else(|| panic!("no {who}, {how}")).tally
    };
    let over = |share: f64, how: &str, who: &str, other: &str| {
        let time = |who| find(who, how).times.quantile(share).as_secs_f64();
        time(who) / time(other)
    };
    for who in ["codexd", "conductor"] {
        let what = |what: &str| format!("{who}: {what}");
        report.at_most(
            &what("p50 on a kept connection, over the floor's"),
            "",
            over(0.5, "kept, 1", who, "floor"),
            1.5,
        );
        let rate = find(who, "kept, 32").per_second() / find("floor", "kept, 32").per_second();
        report.at_least(&what("rate at 32 connections, over the floor's"), "", rate, 0.8);
        report.at_most(
            &what("p99 at 32 connections, over axum's"),
            "",
            over(0.99, "kept, 32", who, "axum"),
            1.0,
        );
    }
    let ours = contests.iter().filter(|contest| !["floor", "axum", "Node"].contains(&contest.who));
    let unanswered: usize = ours.map(|contest| contest.tally.unanswered).sum();
    report.at_most("requests without an answer, all of ours together", "", unanswered as f64, 0.0);
}

/// Both generators on both servers, in turn. Were ours what limits, `wrk` would reach more, or see another ratio between
/// the servers.
fn against_wrk(report: &mut Report, dir: &TempDir, servers: [(&str, &Daemon); 2]) {
    if !there_is("wrk") {
        return;
    }
    let targets = servers.map(|(_, server)| Target::of(&format!("{}/healthz", server.url())));
    let (mut ours, mut theirs) = ([(); 2].map(|()| Tally::default()), [0.0; 2]);
    for _ in 0..WRK_ROUNDS {
        for (at, (_, server)) in servers.iter().enumerate() {
            ours[at].add(load::run(&targets[at], Load { lasts: WRK_ROUND, ..MANY }));
            theirs[at] += wrk(dir, server) / WRK_ROUNDS as f64;
        }
    }
    let rates = [("of ours", ours.map(|tally| tally.per_second())), ("of wrk", theirs)];
    for (whose, [floor, codexd]) in rates {
        let case = format!("kept, 32: load {whose}");
        report.figure(NAME, &case, "rate at floor", "1/s", floor);
        report.figure(NAME, &case, "rate at codexd", "1/s", codexd);
        report.figure(NAME, &case, "ratio", "", codexd / floor);
    }
}

/// Requests a second, as `wrk` counts them; panics if it saw one that failed.
fn wrk(dir: &TempDir, server: &Daemon) -> f64 {
    let (connections, seconds) = (format!("-c{MOST}"), format!("-d{}s", WRK_ROUND.as_secs()));
    let launch = program("wrk", dir.path()).args(["-t1".to_owned(), connections, seconds]);
    let (status, out, err) = launch.args([format!("{}/healthz", server.url())]).run(SOON);
    let last = out.lines().rev().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    let failed = out.contains("Socket errors") || out.contains("Non-2xx");
    last.filter(|_| status.success() && !failed).unwrap_or_else(|| panic!("wrk: {out}{err}"))
}

/// Node's own server, where there is a `node`.
fn node_http(dir: &TempDir) -> Option<Daemon> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/node-http.mjs");
    there_is("node").then(|| Daemon::start(&program("node", dir.path()).args([script])))
}

fn there_is(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn program(name: &str, dir: &Path) -> Launch {
    Launch { program: name.into(), args: Vec::new(), env: Vec::new(), dir: dir.to_owned() }
}
