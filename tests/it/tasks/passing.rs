//! Two conductors on one state directory: the queue passes from one to the other, and never do both work on it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::time::Timestamp;
use e2e::codex::Codex;
use e2e::figures;
use e2e::http::get;
use e2e::node::Node;
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

use super::{Conductor, appears, codex, count, exec, process};

const QUICK: [&str; 6] =
    ["--lease-renew-interval-ms", "100", "--heartbeat-interval-ms", "100", "--lease-ttl-sec", "1"];
/// From the death of the leader to the first thing that the other does for a task.
const TAKEOVER_MS: u64 = 1000;
/// Other tests run beside this one: the best of so many counts.
const ROUNDS: usize = 3;

#[track_caller]
fn start(node: &Node, name: &str, args: &[&str]) -> Conductor {
    let args = [&QUICK[..], &["--node-id", name], args].concat();
    Conductor::start(node.dir.path(), Some(node.codexd.url()), &args)
}

/// conductor's log.
fn events(shared: &Path) -> Vec<Value> {
    let text = fs::read_to_string(shared.join("logs/conductor/events.jsonl")).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// When the leader of this term did something for a task first.
fn first_work(shared: &Path, term: u64) -> Option<Timestamp> {
    let events = events(shared);
    let took = |event: &Value| event["type"] == "lease.acquired" && event["detail"]["term"] == term;
    let mut after = events.iter().skip_while(|event| !took(event));
    let kinds = ["run.started", "step.started", "run.ended"];
    let first = after.find(|event| kinds.iter().any(|kind| event["type"] == *kind))?;
    Timestamp::parse(first["created_at"].as_str()?)
}

#[test]
fn the_other_takes_over_the_queue_of_a_leader_that_was_killed() {
    let node = Node::start(&Codex::Fake, &[]);
    let work = node.dir.folder("work");
    let (mut leader, mut other) = (start(&node, "one", &[]), start(&node, "two", &["--role", "standby"]));
    let cwd = json!({ "cwd": work });
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        // Once it is begun again, it ends at once.
        let long = format!(
            "echo long-{round} >> effects; [ -e long-{round} ] || {{ touch long-{round}; echo $$ > pid-{round}; exec sleep 1000; }}"
        );
        let long = leader.submit(json!([exec(&long), codex(&format!("after-{round}"))]), cwd.clone());
        let short = |n: usize| {
            let step = exec(&format!("sleep 0.02; echo short-{round}-{n} >> effects"));
            leader.submit(
                json!([step, codex(&format!("turn-{round}-{n} [[say-slow 20 one two]]")), step]),
                cwd.clone(),
            )
        };
        let short: Vec<String> = (0..10).map(short).collect();
        let command = process(&work.join(format!("pid-{round}")));
        eventually("some that are done", SOON, || {
            (leader.task(&short[1])["status"] == "completed").then_some(())
        });
        assert_eq!(other.task(&long)["status"], "running", "the other sees it");
        assert!(leader.leads() && !other.leads());
        let killed = Timestamp::now();
        leader.daemon.kill();
        assert!(command.lives(), "it does not die with its starter");
        eventually("a takeover", SOON, || other.leads().then_some(()));
        assert!(!command.lives(), "what the dead one ran is ended before anything else");
        let term = other.system()["term"].as_u64().unwrap();
        assert_eq!(term, round as u64 + 2);
        let first = eventually("its first work", SOON, || first_work(node.dir.path(), term));
        took.push(first.millis() - killed.millis());

        let done = other.completes(&long);
        assert_eq!(done["result"]["steps"][0]["times_cut_off"], 1, "{done:#}");
        assert_eq!(count(&work.join("effects"), &format!("long-{round}")), 2);
        for (n, id) in short.iter().enumerate() {
            let task = other.completes(id);
            let steps = task["result"]["steps"].as_array().unwrap();
            let cut_off: u64 = [0, 2].iter().map(|at| steps[*at]["times_cut_off"].as_u64().unwrap()).sum();
            let ran = count(&work.join("effects"), &format!("short-{round}-{n}"));
            assert!((2..=2 + cut_off).contains(&ran), "{ran} times: {task:#}");
        }
        let back = start(&node, ["one", "two"][round % 2], &[]);
        leader = std::mem::replace(&mut other, back);
    }
    let turns = crate::torture::done(&node, &Codex::Fake);
    assert_eq!(turns.len(), 11 * ROUNDS);
    assert!(turns.values().all(|count| *count == 1), "a turn outlives the leader: {turns:?}");
    let best = took.iter().min().unwrap();
    figures::print(&format!(
        "the other's first work for a task: {best} ms after `kill -9` of the leader ({took:?})"
    ));
    assert!(*best < TAKEOVER_MS, "{took:?}");
}

#[test]
fn a_leader_that_is_frozen_keeps_its_queue() {
    let node = Node::start(&Codex::Fake, &[]);
    let work = node.dir.folder("work");
    let (leader, other) = (start(&node, "one", &[]), start(&node, "two", &[]));
    let step = |n: usize| exec(&format!("touch began-{n}; sleep 0.2; echo {n} >> effects"));
    let submit = |n| leader.submit(json!([step(n), step(n)]), json!({ "cwd": work }));
    let tasks: Vec<String> = (0..6).map(submit).collect();
    appears(&work.join("began-0"));
    leader.daemon.signal("STOP");
    let frozen = Instant::now();
    eventually("a lease that is over", SOON, || {
        let system = other.system();
        (system["lease_expires_at"].as_str().unwrap() < Timestamp::now().to_string().as_str()).then_some(())
    });
    let before = events(node.dir.path()).len();
    while frozen.elapsed() < Duration::from_secs(3) {
        assert!(!other.leads());
        other.post("tasks", &json!({ "steps": [step(9)] })).failure(409, "conflict");
        assert_eq!(events(node.dir.path()).len(), before, "nobody writes");
    }
    leader.daemon.signal("CONT");
    for (n, id) in tasks.iter().enumerate() {
        let task = leader.completes(id);
        assert_eq!(task["attempts"], 1, "{task:#}");
        assert_eq!(count(&work.join("effects"), &n.to_string()), 2);
    }
    assert!(leader.leads() && !other.leads());
}

#[test]
fn one_that_stands_by_answers_reads_and_refuses_writes() {
    let shared = TempDir::new();
    let leader = Conductor::start(shared.path(), None, &["--node-id", "one"]);
    let other = Conductor::start(shared.path(), None, &["--node-id", "two"]);
    let task =
        leader.submit(json!([exec("echo hello")]), json!({ "title": "seen", "metadata": { "a": [1] } }));
    let seen = leader.completes(&task);
    assert_eq!(other.task(&task), seen);
    for path in [
        "tasks",
        "tasks?status=completed",
        "runs",
        &format!("tasks/{task}/logs"),
        &format!("runs/{}", seen["run_id"].as_str().unwrap()),
    ] {
        assert_eq!(get(&other.url(path)).data(200), get(&leader.url(path)).data(200), "{path}");
    }
    get(&other.url("tasks/task-00000000-1")).failure(404, "not_found");
    for (path, body) in [
        ("tasks".to_owned(), json!({ "steps": [exec("true")] })),
        (format!("tasks/{task}/cancel"), json!({})),
    ] {
        let refused = other.post(&path, &body).failure(409, "conflict");
        assert_eq!(refused["details"], json!({ "holder_id": "one" }));
    }
}

/// Follows a task's log until the task is over and there is nothing more: the messages.
fn followed(conductor: &Conductor, id: &str) -> Vec<String> {
    let (mut after, mut messages) = (0, Vec::new());
    loop {
        let path = format!("tasks/{id}/logs?after={after}&wait_ms=20000");
        let page = get(&conductor.url(&path)).data(200);
        let lines = page["logs"].as_array().unwrap();
        messages.extend(lines.iter().map(|line| line["message"].as_str().unwrap().to_owned()));
        after = page["next_after"].as_u64().unwrap();
        if lines.is_empty() && !matches!(page["status"].as_str(), Some("queued" | "running")) {
            return messages;
        }
    }
}

#[test]
fn a_log_that_is_followed_at_the_other_is_whole_also_when_that_takes_over() {
    let node = Node::start(&Codex::Fake, &[]);
    let (mut leader, other) = (start(&node, "one", &[]), start(&node, "two", &["--role", "standby"]));
    let steps = || json!([exec("echo first; sleep 0.3"), exec("echo last")]);
    let id = leader.submit(steps(), json!({}));
    let seen = followed(&other, &id);
    assert!(seen.contains(&"first".to_owned()) && seen.contains(&"last".to_owned()), "{seen:?}");
    assert_eq!(seen, followed(&leader, &id));
    let slow = json!([exec("sleep 1; echo first"), exec("echo last")]);
    let id = leader.submit(slow, json!({}));
    leader.becomes(&id, "running", SOON);
    let seen = std::thread::scope(|scope| {
        let following = scope.spawn(|| followed(&other, &id));
        std::thread::sleep(Duration::from_millis(300)); // into its wait
        leader.daemon.kill();
        following.join().unwrap()
    });
    assert!(seen.contains(&"first".to_owned()) && seen.contains(&"last".to_owned()), "{seen:?}");
}
