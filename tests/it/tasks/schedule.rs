//! Which task starts when, how often it is tried, and when it is too late.

use std::fs;

use common::time::Timestamp;
use e2e::codex::Codex;
use e2e::http::get;
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

use super::{Conductor, Pid, codex, count, exec, pair, process};

#[track_caller]
fn millis(time: &Value) -> u64 {
    Timestamp::parse(time.as_str().unwrap_or_else(|| panic!("no time: {time}"))).unwrap().millis()
}

#[test]
fn the_oldest_of_the_highest_priority_comes_first() {
    let shared = TempDir::new();
    let conductor = Conductor::start(shared.path(), None, &["--max-active-runs", "1"]);
    conductor.post("system/pause", &json!({})).data(200);
    let priorities = [0, 5, -3, 5, 0, 7];
    let submit = |(n, priority): (usize, &i64)| {
        let step = exec(&format!("echo {n} >> order"));
        conductor.submit(json!([step]), json!({ "priority": priority, "cwd": shared.path() }))
    };
    let tasks: Vec<String> = priorities.iter().enumerate().map(submit).collect();
    let listed = get(&conductor.url("tasks?status=queued&limit=2")).data(200)["tasks"].take();
    let ids: Vec<_> =
        listed.as_array().unwrap().iter().map(|task| task["task_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&tasks[5], &tasks[4]], "lists have the newest first");
    let older =
        get(&conductor.url(&format!("tasks?limit=100&before={}", tasks[1]))).data(200)["tasks"].take();
    assert_eq!(older.as_array().unwrap().len(), 1);
    conductor.post("system/resume", &json!({})).data(200);
    tasks.iter().for_each(|id| drop(conductor.completes(id)));
    assert_eq!(fs::read_to_string(shared.path().join("order")).unwrap(), "5\n1\n3\n0\n4\n2\n");
}

#[test]
fn a_task_that_is_not_due_waits_also_across_a_restart_and_holds_nobody_up() {
    let shared = TempDir::new();
    let mut conductor = Conductor::start(shared.path(), None, &["--max-active-runs", "1"]);
    let due = Timestamp::from_millis(Timestamp::now().millis() + 1500);
    let later = conductor.submit(json!([exec("true")]), json!({ "not_before": due, "priority": 9 }));
    let now = conductor.submit(json!([exec("true")]), json!({ "not_before": "2020-01-01T00:00:00.000Z" }));
    conductor.completes(&now);
    conductor.crash();
    let task = conductor.task(&later);
    assert_eq!((&task["status"], &task["not_before"]), (&json!("queued"), &json!(due)), "{task:#}");
    let done = conductor.completes(&later);
    assert!(millis(&done["started_at"]) >= due.millis(), "{done:#}");
}

#[test]
fn a_failed_attempt_is_tried_again_later_from_the_step_that_failed() {
    let shared = TempDir::new();
    let conductor = Conductor::start(shared.path(), None, &[]);
    let steps = json!([
        exec("echo first >> ran"),
        exec("echo second >> ran; [ $(grep -c second ran) = 3 ]"),
        exec("echo third >> ran")
    ]);
    let task = conductor.submit(steps.clone(), json!({ "cwd": shared.path() }));
    let done = conductor.completes(&task);
    assert_eq!(
        fs::read_to_string(shared.path().join("ran")).unwrap(),
        "first\nsecond\nsecond\nsecond\nthird\n"
    );
    assert_eq!((&done["attempts"], &done["failures"]), (&json!(3), &json!(2)));
    let of_step = |name: &str| {
        done["result"]["steps"].as_array().unwrap().iter().map(|step| step[name].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of_step("attempt"), [1, 3, 3]);
    assert_eq!(of_step("times_cut_off"), [0, 0, 0], "a command that fails is not cut off");
    let runs = conductor.runs(&task);
    let statuses: Vec<_> = runs.iter().map(|run| &run["status"]).collect();
    assert_eq!(statuses, ["failed", "failed", "completed"]);
    assert_eq!(runs[0]["error"]["code"], "EXEC_EXIT_NON_ZERO", "{}", runs[0]);
    for (pair, pause) in runs.windows(2).zip([1000, 2000]) {
        let paused = millis(&pair[1]["started_at"]) - millis(&pair[0]["finished_at"]);
        assert!(paused >= pause, "{paused} ms instead of {pause}");
    }

    let steps = json!([exec("echo only >> ran; exit 7")]);
    let task = conductor.submit(steps, json!({ "cwd": shared.path(), "max_attempts": 2 }));
    let failed = conductor.becomes(&task, "failed", SOON);
    assert_eq!((&failed["attempts"], &failed["error"]["code"]), (&json!(2), &json!("EXEC_EXIT_NON_ZERO")));
    assert_eq!(count(&shared.path().join("ran"), "only"), 2);
}

#[test]
fn an_attempt_that_takes_too_long_is_ended_whatever_it_does() {
    let (node, conductor) = pair(&Codex::Fake, &[], &[]);
    let more =
        |timeout_ms: u64| json!({ "timeout_ms": timeout_ms, "max_attempts": 1, "cwd": node.dir.path() });
    let turning = conductor.submit(json!([codex("[[hang]]")]), more(700));
    let running = conductor
        .submit(json!([exec("sleep 1000 & echo $! > other; echo $$ > pid; exec sleep 1001")]), more(700));
    let step = json!({ "kind": "exec", "command": "echo $$ > third; exec sleep 1002", "timeout_ms": 200 });
    let stepping = conductor.submit(json!([step]), more(60_000));
    for (task, codes) in [
        (&turning, &["timeout"][..]),
        (&running, &["timeout", "EXEC_TIMEOUT"]),
        (&stepping, &["EXEC_TIMEOUT"]),
    ] {
        let failed = conductor.becomes(task, "failed", SOON);
        assert!(codes.contains(&failed["error"]["code"].as_str().unwrap()), "{failed:#}");
    }
    let commands = ["pid", "other", "third"].map(|name| process(&node.dir.path().join(name)));
    eventually("the end of all commands", SOON, || (!commands.iter().any(Pid::lives)).then_some(()));
    let session = conductor.runs(&turning)[0]["session_id"].as_str().unwrap().to_owned();
    eventually("a closed session", SOON, || (node.read(&session)["status"] == "closed").then_some(()));
    eventually("an interrupted turn", SOON, || {
        (node.read(&session)["lastTurnStatus"] == "interrupted").then_some(())
    });
}

#[test]
fn a_run_works_in_a_session_of_its_own_that_is_closed_at_its_end() {
    for codex_kind in Codex::both() {
        let (node, conductor) = pair(&codex_kind, &[], &[]);
        let more = json!({ "sandbox": "danger-full-access", "metadata": { "of": "the caller" }, "title": "a title" });
        let task = conductor.submit(json!([codex("[[say one]]"), exec("pwd"), codex("[[say two]]")]), more);
        let done = conductor.completes(&task);
        assert_eq!((&done["title"], &done["metadata"]["of"]), (&json!("a title"), &json!("the caller")));
        let result = &done["result"];
        assert_eq!((&result["text"], &result["exit_code"]), (&json!("two"), &json!(0)), "{result:#}");
        let folder = node.dir.path().join("runs").join(&task);
        assert_eq!(result["steps"][1]["text"], folder.to_str().unwrap(), "a folder of its own");
        let runs = conductor.runs(&task);
        assert_eq!(runs.len(), 1);
        let session = runs[0]["session_id"].as_str().unwrap();
        eventually("a closed session", SOON, || (node.read(session)["status"] == "closed").then_some(()));
        let session = node.read(session);
        assert_eq!((&session["purpose"], &session["cwd"]), (&json!("worker"), &json!(folder)));
        let ids = json!({ "task_id": task, "run_id": runs[0]["run_id"], "attempt": 1 });
        assert_eq!(session["metadata"], ids);
        assert_eq!(node.status()["snapshot"]["sessionRegistry"]["count"], 1);
        let lines = conductor.lines(&task);
        assert!(
            lines.iter().any(|line| line == "one") && lines.iter().any(|line| line == "two"),
            "{lines:#?}"
        );
    }
}

#[test]
fn an_approval_that_nobody_answers_is_declined_and_the_step_goes_on() {
    let (node, conductor) = pair(&Codex::Fake, &["--approval-timeout-ms", "300"], &[]);
    let steps = json!([codex("[[exec touch made]]"), exec("true")]);
    let more = json!({ "approval_policy": "untrusted", "sandbox": "read-only", "cwd": node.dir.path() });
    let task = conductor.submit(steps, more);
    let done = conductor.completes(&task);
    assert_eq!(done["attempts"], 1, "{done:#}");
    assert!(!node.dir.path().join("made").exists());
    let lines = conductor.lines(&task);
    assert!(
        lines.iter().any(|line| line.to_lowercase().contains("approval")),
        "who reads the log sees why: {lines:#?}"
    );
}
