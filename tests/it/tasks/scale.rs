//! Ten thousand tasks that wait: a task more, a look at them and a start cost what they cost with ten.

use std::ffi::OsString;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use e2e::figures;
use e2e::http::{get, try_request};
use e2e::process::{Launch, Process, resident_kb};
use e2e::temp::TempDir;
use e2e::wait::SOON;
use serde_json::json;

use super::{Conductor, exec, free_base};

const TASKS: usize = 10_000;
/// What a thing may cost with so many, for each that it costs with ten.
const FACTOR: f64 = 1.5;
/// Measured here and there in turn, for other tests run beside this one; the medians of a round are compared, and the best
/// of all rounds counts.
const SAMPLES: usize = 40;
const ROUNDS: usize = 5;
/// Starts of a round: each takes long.
const STARTS: usize = 8;

#[track_caller]
fn start(shared: &Path, tasks: usize) -> Conductor {
    let conductor = Conductor::start(shared, None, &[]);
    conductor.post("system/pause", &json!({})).data(200);
    thread::scope(|scope| {
        for n in 0..10 {
            let conductor = &conductor;
            scope.spawn(move || (0..tasks / 10).for_each(|_| drop(submit(conductor, n))));
        }
    });
    conductor
}

#[track_caller]
fn submit(conductor: &Conductor, priority: usize) -> String {
    conductor.submit(json!([exec("true")]), json!({ "title": "one of many", "priority": priority }))
}

/// The ratio of the medians of the best round.
fn factor(samples: usize, mut one: impl FnMut(bool) -> Duration) -> f64 {
    let round = |_| {
        let (mut large, mut small): (Vec<_>, Vec<_>) = (0..samples).map(|_| (one(true), one(false))).unzip();
        large.sort();
        small.sort();
        large[samples / 2].as_secs_f64() / small[samples / 2].as_secs_f64()
    };
    (0..ROUNDS).map(round).min_by(f64::total_cmp).unwrap()
}

fn timed<T>(act: impl FnOnce() -> T) -> Duration {
    let begun = Instant::now();
    act();
    begun.elapsed()
}

/// From the start of a process until it answers, and until it leads.
fn first_answer(node: &Conductor) -> (Duration, Duration) {
    let base = free_base();
    let arg = |arg: &OsString| if arg == "http://127.0.0.1:0" { base.clone().into() } else { arg.clone() };
    let Launch { program, args, dir, .. } = &node.launch;
    let args = args.iter().map(arg).collect();
    let launch = Launch { program: program.clone(), args, env: Vec::new(), dir: dir.clone() };
    let begun = Instant::now();
    let _process = Process::start(&launch);
    let says = |path: &str, text: &str| loop {
        match try_request("GET", &format!("{base}{path}"), &[], b"") {
            Ok(answer) if answer.text() == text => return begun.elapsed(),
            _ => assert!(begun.elapsed() < SOON, "no {text}"),
        }
        thread::sleep(Duration::from_micros(200));
    };
    (says("/healthz", "ok\n"), says("/rolez", "leader\n"))
}

#[test]
fn ten_thousand_tasks_that_wait_cost_what_ten_do() {
    let shared = [TempDir::new(), TempDir::new()];
    let mut nodes = [start(shared[0].path(), 10), start(shared[1].path(), TASKS)];
    let mut factors: Vec<(&str, f64)> = Vec::new();
    let mut made: [Vec<String>; 2] = Default::default();
    factors.push((
        "submit",
        factor(SAMPLES, |large| {
            timed(|| made[usize::from(large)].push(submit(&nodes[usize::from(large)], 5)))
        }),
    ));
    for (name, path) in [
        ("list", "tasks"),
        ("list queued", "tasks?status=queued&limit=100"),
        ("list completed", "tasks?status=completed"),
        ("state", "system/state"),
    ] {
        let look = |large: bool| timed(|| get(&nodes[usize::from(large)].url(path)).data(200));
        factors.push((name, factor(SAMPLES, look)));
    }
    factors.push((
        "read",
        factor(SAMPLES, |large| {
            let of = usize::from(large);
            timed(|| nodes[of].task(&made[of][0]))
        }),
    ));
    factors.push((
        "cancel",
        factor(SAMPLES, |large| {
            let of = usize::from(large);
            let task = made[of].pop().unwrap();
            timed(|| nodes[of].post(&format!("tasks/{task}/cancel"), &json!({})).data(200))
        }),
    ));
    let resident = [0, 1].map(|of| resident_kb(nodes[of].daemon.pid()));
    let queued = nodes[1].system()["queued_tasks"].take();
    assert_eq!(queued, TASKS);
    // What was not closed in good order is read anew.
    nodes.iter_mut().for_each(|node| node.daemon.kill());
    let mut leads = [Duration::MAX; 2];
    let first = |large: bool| {
        let of = usize::from(large);
        let (answers, led) = first_answer(&nodes[of]);
        leads[of] = leads[of].min(led);
        answers
    };
    factors.push(("first answer", factor(STARTS, first)));
    let told: Vec<_> = factors.iter().map(|(name, factor)| format!("{name} {factor:.2}")).collect();
    figures::print(&format!(
        "{TASKS} tasks that wait, for each that ten cost: {}; {} KB resident against {} KB, leads \
         {:.0?} after its start against {:.0?}",
        told.join(", "),
        resident[1],
        resident[0],
        leads[1],
        leads[0]
    ));
    assert!(factors.iter().all(|(_, factor)| *factor <= FACTOR), "{factors:?}");
}
