//! conductor with more and more tasks that wait: what a request costs, what a start takes, what it holds in memory.

use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::bench::proc::{MB, Memory};
use crate::bench::report::Report;
use crate::bench::samples::Samples;
use crate::bench::start::says;
use crate::http::{KeptAlive, Response, get, post};
use crate::ports::free_port;
use crate::process::{Daemon, Launch, Process};
use crate::temp::TempDir;

const BENCH: &str = "tasks";
const STARTING: &str = "tasks: starts";
const MEMORY: &str = "tasks: memory";
const CASES: [(usize, &str); 3] = [(10, "10 tasks"), (1_000, "1 000 tasks"), (10_000, "10 000 tasks")];
const KINDS: [&str; 5] = ["submit", "list", "state", "read", "cancel"];
/// Submitters at once.
const SUBMITTERS: usize = 10;
/// Requests of each kind at each node.
const ROUNDS: usize = 200;
/// Ends and starts of each node.
const STARTS: usize = 5;
const MOST_SUBMIT: f64 = 1.5;

/// Where codexd would be; no task starts, so nobody asks it.
const NOBODY: &str = "http://127.0.0.1:9";

/// A paused conductor with so many tasks.
struct Sized {
    case: &'static str,
    conductor: Process,
    base: String,
    launch: Launch,
    _dir: TempDir,
}

/// Measures, and adds what it found.
pub fn run(report: &mut Report) {
    let mut nodes: Vec<Sized> = CASES.into_iter().map(Sized::start).collect();
    let submitted = requests(report, &nodes);
    report.at_most(
        "a task more: with 10 000, for each that it costs with 10",
        "times",
        submitted,
        MOST_SUBMIT,
    );
    let resident: Vec<f64> =
        nodes.iter().map(|node| node.tell_memory(report, "as they were submitted")).collect();
    let each = (resident[2] - resident[0]) / (CASES[2].0 - CASES[0].0) as f64;
    report.figure(MEMORY, "1 000 tasks more", "resident", "MB", each * 1000.0 / MB);
    starts(report, &mut nodes);
    for node in &nodes {
        node.tell_memory(report, "after a start");
    }
    for (node, (tasks, _)) in nodes.iter().zip(CASES) {
        assert_eq!(node.state()["queued_tasks"], tasks, "{}", node.case);
    }
}

impl Sized {
    #[track_caller]
    fn start((tasks, case): (usize, &'static str)) -> Sized {
        let dir = TempDir::new();
        let base = format!("http://127.0.0.1:{}", free_port());
        let launch = Launch::of("conductor", dir.path()).args(["start", "--local-api", &base]);
        let launch = launch.args(["--codexd-local-api", NOBODY]);
        let conductor: Process = Daemon::start(&launch).into();
        let node = Sized { case, conductor, base, launch, _dir: dir };
        says(&node.base, "/rolez", "leader\n", Instant::now());
        post(&format!("{}/v1/system/pause", node.base), &json!({})).data(200);
        thread::scope(|scope| {
            for _ in 0..SUBMITTERS {
                scope.spawn(|| {
                    let mut connection = node.open();
                    (0..tasks / SUBMITTERS).for_each(|_| drop(submit(&mut connection).data(201)));
                });
            }
        });
        assert_eq!(node.state()["queued_tasks"], tasks, "{case}");
        node
    }

    #[track_caller]
    fn open(&self) -> KeptAlive {
        KeptAlive::open(&self.base).unwrap_or_else(|error| panic!("{}: {error}", self.case))
    }

    #[track_caller]
    fn state(&self) -> Value {
        get(&format!("{}/v1/system/state", self.base)).data(200)
    }

    fn tell_memory(&self, report: &mut Report, when: &str) -> f64 {
        let memory = Memory::of(self.conductor.pid());
        memory.tell(report, MEMORY, &format!("{}, {when}", self.case));
        memory.resident
    }
}

#[track_caller]
fn submit(connection: &mut KeptAlive) -> Response {
    let body = json!({"title": "one of many", "steps": [{"kind": "codex", "input": "What is there to do?"}]});
    connection.post("/v1/tasks", &body.to_string()).unwrap_or_else(|error| panic!("submit: {error}"))
}

/// A task is submitted, looked at and canceled, at each node in turn, so that there are as many in the end: what submitting
/// costs with the last, for each that it costs with the first.
fn requests(report: &mut Report, nodes: &[Sized]) -> f64 {
    let mut connections: Vec<_> = nodes.iter().map(Sized::open).collect();
    let mut times = vec![vec![Samples::default(); nodes.len()]; KINDS.len()];
    for _ in 0..ROUNDS {
        let mut task = vec![String::new(); nodes.len()];
        for (kind, times) in KINDS.into_iter().zip(&mut times) {
            for ((connection, task), times) in connections.iter_mut().zip(&mut task).zip(times) {
                let begun = Instant::now();
                let answer = match kind {
                    "submit" => Ok(submit(connection)),
                    "list" => connection.get("/v1/tasks?status=queued&limit=10"),
                    "state" => connection.get("/v1/system/state"),
                    "read" => connection.get(&format!("/v1/tasks/{task}")),
                    _ => connection.post(&format!("/v1/tasks/{task}/cancel"), "{}"),
                };
                times.push(begun.elapsed());
                let answer = answer.unwrap_or_else(|error| panic!("{kind}: {error}"));
                let data = answer.data(if kind == "submit" { 201 } else { 200 });
                if kind == "submit" {
                    *task = data["task"]["task_id"].as_str().unwrap_or_default().to_owned();
                }
            }
        }
    }
    for (kind, times) in KINDS.into_iter().zip(&times) {
        for (node, times) in nodes.iter().zip(times) {
            report.times(BENCH, &format!("{kind}, {}", node.case), times);
        }
    }
    let median = |node: usize| times[0][node].quantile(0.5).as_secs_f64();
    median(nodes.len() - 1) / median(0)
}

/// Ends each node by `kill -9` and starts it again, in turn.
fn starts(report: &mut Report, nodes: &mut [Sized]) {
    let mut times = vec![[Samples::default(), Samples::default()]; nodes.len()];
    for _ in 0..STARTS {
        for (node, [answers, leads]) in nodes.iter_mut().zip(&mut times) {
            node.conductor.kill();
            let begun = Instant::now();
            node.conductor = Process::start(&node.launch);
            answers.push(says(&node.base, "/healthz", "ok\n", begun));
            leads.push(says(&node.base, "/rolez", "leader\n", begun));
        }
    }
    for (node, [answers, leads]) in nodes.iter().zip(&times) {
        report.times(STARTING, &format!("the first answer, {}", node.case), answers);
        report.times(STARTING, &format!("the lead, {}", node.case), leads);
    }
}
