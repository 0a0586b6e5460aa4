//! A disk without room, a codexd that goes away, and a stop in good order while work is done: no task is lost, and no step
//! is done twice.

use std::fs;
use std::time::Duration;

use e2e::codex::Codex;
use e2e::http::get;
use e2e::temp::TempDir;
use e2e::tmpfs::Tmpfs;
use e2e::wait::{SOON, eventually};
use serde_json::json;

use super::{Conductor, appears, codex, count, exec, free_base, pair, process};

#[test]
fn a_disk_without_room_refuses_tasks_and_loses_none() {
    let dir = TempDir::new();
    let Some(disk) = Tmpfs::mount(&dir.path().join("disk"), "4m") else { return };
    let work = dir.folder("work");
    let mut conductor = Conductor::start(disk.path(), None, &[]);
    let gate = json!([
        exec("until [ -e go ]; do sleep 0.02; done; echo done >> effects"),
        exec("echo done >> effects")
    ]);
    let running = conductor.submit(gate, json!({ "cwd": work }));
    eventually("a run", SOON, || (conductor.system()["active_runs"] == 1).then_some(()));
    let mut taken = Vec::new();
    loop {
        disk.fill();
        let body = json!({ "steps": [exec("true")], "title": "x".repeat(1000), "priority": -1 });
        let answer = conductor.post("tasks", &body);
        if answer.status != 201 {
            answer.failure(507, "storage_failed");
            break;
        }
        taken.push(answer.data(201)["task"]["task_id"].as_str().unwrap().to_owned());
    }
    let queued = taken.len();
    // It ends while nothing can be written down.
    fs::write(work.join("go"), "").unwrap();
    appears(&work.join("effects"));
    let refused =
        || (conductor.post("tasks", &json!({ "steps": [exec("true")] })).status == 507).then_some(());
    eventually("a disk that stays full", SOON, refused);
    // One that came with what is refused is refused, too; the next one is answered from what is durable.
    let seen =
        || Some(get(&conductor.url(&format!("tasks/{running}")))).filter(|answer| answer.status == 200);
    let seen = eventually("a read", SOON, seen).data(200);
    assert_eq!(seen["task"]["status"], "running", "{seen:#}");
    disk.free();
    conductor.completes(&running);
    taken.iter().for_each(|id| drop(conductor.completes(id)));
    assert_eq!(fs::read_to_string(work.join("effects")).unwrap(), "done\ndone\n", "each step once");
    conductor.crash();
    let list = get(&conductor.url("tasks?status=completed&limit=100")).data(200);
    assert_eq!(list["count"].as_u64().unwrap(), (queued as u64 + 1).min(100));
}

/// The address that a codexd of later is to have.
#[test]
fn a_task_waits_for_a_codexd_that_is_not_there_and_one_that_goes_away() {
    let base = free_base();
    let (mut node, conductor) = pair(&Codex::Fake, &[], &[]);
    let task = conductor.submit(
        json!([codex("[[say first]]"), codex("[[say-slow 100 one two three]]"), codex("[[say last]]")]),
        json!({}),
    );
    eventually("the second step", SOON, || (conductor.task(&task)["step_index"] == 1).then_some(()));
    node.codexd.kill_all();
    std::thread::sleep(Duration::from_millis(1500)); // longer than the first pause
    assert_eq!(conductor.task(&task)["status"], "running");
    node.crash();
    let done = conductor.completes(&task);
    assert_eq!((&done["failures"], &done["result"]["text"]), (&json!(0), &json!("last")), "{done:#}");

    let shared = TempDir::new();
    let lonely = Conductor::start(shared.path(), Some(&base), &[]);
    let task = lonely.submit(json!([codex("x")]), json!({ "timeout_ms": 1500, "max_attempts": 1 }));
    let failed = lonely.becomes(&task, "failed", SOON);
    assert_eq!(failed["error"]["code"], "timeout", "{failed:#}");
}

/// A short command ends by itself; a turn goes on in codexd, and the next process finds it.
#[test]
fn a_stop_waits_for_a_short_command_and_leaves_a_turn_to_codexd() {
    let (node, mut conductor) = pair(&Codex::Fake, &[], &[]);
    let cwd = json!({ "cwd": node.dir.path() });
    let short = conductor.submit(
        json!([exec("touch begun; sleep 0.7; echo short >> ran"), exec("echo short >> ran")]),
        cwd.clone(),
    );
    let turn = conductor
        .submit(json!([codex("marker [[say-slow 400 one two three four five]]"), exec("true")]), cwd);
    appears(&node.dir.path().join("begun"));
    eventually("a turn", SOON, || {
        (node.status()["snapshot"]["sessionRegistry"]["activeCount"] == 1).then_some(())
    });
    eventually("a turn that runs", SOON, || conductor.lines(&turn).first().map(drop));
    conductor.restart();
    for id in [&short, &turn] {
        let done = conductor.completes(id);
        assert_eq!(done["attempts"], 1, "{done:#}");
        assert_eq!(done["result"]["steps"][0]["times_cut_off"], 0);
    }
    assert_eq!(count(&node.dir.path().join("ran"), "short"), 2);
    assert!(crate::torture::done(&node, &Codex::Fake).values().all(|count| *count == 1));
}

/// Nobody waits for ever: it is killed, and begun again by the next process.
#[test]
fn a_stop_cuts_a_long_command_off() {
    let shared = TempDir::new();
    let mut conductor = Conductor::start(shared.path(), None, &[]);
    let step = exec(
        "echo begun >> ran; [ -e again ] || { touch again; echo $$ > pid; sleep 1000; }; echo over >> ran",
    );
    let task = conductor.submit(json!([step]), json!({ "cwd": shared.path() }));
    let command = process(&shared.path().join("pid"));
    conductor.daemon.signal("TERM");
    assert!(conductor.daemon.wait(Duration::from_secs(10)).unwrap().success(), "below launchd's patience");
    assert!(!command.lives());
    conductor.again();
    let done = conductor.completes(&task);
    assert_eq!(done["result"]["steps"][0]["times_cut_off"], 1, "{done:#}");
    assert_eq!(conductor.runs(&task)[0]["status"], "interrupted");
    assert_eq!(fs::read_to_string(shared.path().join("ran")).unwrap(), "begun\nbegun\nover\n");
    assert_eq!(done["failures"], 0);
}

/// It would end the node as often as it is begun.
#[test]
fn a_command_that_kills_conductor_is_given_up() {
    let shared = TempDir::new();
    let mut conductor = Conductor::start(shared.path(), None, &[]);
    // Once the new one has said where it listens.
    let step = exec("echo begun >> ran; sleep 0.3; kill -s KILL $PPID; sleep 30");
    let task = conductor.submit(json!([exec("true"), step]), json!({ "cwd": shared.path() }));
    for _ in 0..10 {
        assert!(conductor.daemon.wait(SOON).is_some(), "{:#}", conductor.task(&task));
        conductor.again();
    }
    let failed = conductor.becomes(&task, "failed", SOON);
    let facts = (&failed["attempts"], &failed["failures"], &failed["error"]["code"]);
    assert_eq!(facts, (&json!(10), &json!(0), &json!("cut_off")), "{failed:#}");
    assert_eq!(count(&shared.path().join("ran"), "begun"), 10);
    let next = conductor.submit(json!([exec("true")]), json!({}));
    conductor.completes(&next);
}
