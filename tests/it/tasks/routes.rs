//! Submitting, reading and cancelling: who may, under which key, and what a wrong body hears.

use std::fs;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::http::{get, post};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

use super::{Conductor, Pid, codex, exec, pair, process};

#[test]
fn commands_ask_for_the_token_and_turns_for_a_codexd() {
    let shared = TempDir::new();
    let alone = Conductor::start(shared.path(), None, &[]);
    let [turn, command] = [codex("x"), exec("touch made")].map(|step| json!({ "steps": [step] }));
    let refused = post(&alone.url("tasks"), &turn).failure(503, "codexd_not_configured");
    assert_eq!(refused["details"]["env_var"], "BAA_CODEXD_LOCAL_API_BASE");
    post(&alone.url("tasks"), &command).failure(401, "unauthorized");
    let both = json!({ "steps": [codex("x"), exec("true")] });
    post(&alone.url("tasks"), &both).failure(401, "unauthorized");
    let list = get(&alone.url("tasks")).data(200);
    assert_eq!((&list["count"], &list["tasks"]), (&json!(0), &json!([])), "nothing of it is queued");

    let (_node, conductor) = pair(&Codex::Fake, &[], &[]);
    let task = post(&conductor.url("tasks"), &turn).data(201)["task"].take();
    conductor.completes(task["task_id"].as_str().unwrap());
}

#[test]
fn a_wrong_body_or_query_hears_the_name_of_its_field_and_an_unknown_id_is_not_found() {
    let shared = TempDir::new();
    let conductor = Conductor::start(shared.path(), None, &[]);
    let steps = json!([exec("true")]);
    for (body, field) in [
        (json!({}), "steps"),
        (json!({ "steps": "true" }), "steps"),
        (json!({ "steps": [] }), "steps"),
        (json!({ "steps": [{ "kind": "exec", "command": 7 }] }), "steps[0].command"),
        (json!({ "steps": [exec("true"), { "kind": "shell" }] }), "steps[1].kind"),
        (
            json!({ "steps": [{ "kind": "exec", "command": "true", "timeout_ms": -1 }] }),
            "steps[0].timeout_ms",
        ),
        (json!({ "steps": [{ "kind": "codex", "input": [] }] }), "steps[0].input"),
        (json!({ "steps": steps, "title": 1 }), "title"),
        (json!({ "steps": steps, "cwd": "relative" }), "cwd"),
        (json!({ "steps": steps, "sandbox": "none" }), "sandbox"),
        (json!({ "steps": steps, "priority": 1.5 }), "priority"),
        (json!({ "steps": steps, "priority": 1_000_001 }), "priority"),
        (json!({ "steps": steps, "timeout_ms": 0 }), "timeout_ms"),
        (json!({ "steps": steps, "max_attempts": 101 }), "max_attempts"),
        (json!({ "steps": steps, "not_before": "soon" }), "not_before"),
        (json!({ "steps": steps, "metadata": [] }), "metadata"),
    ] {
        let refused = conductor.post("tasks", &body).failure(400, "invalid_request");
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(&format!("`{field}`")), "{body}: {message}");
    }
    for query in ["tasks?status=done", "tasks?limit=0", "tasks?limit=101", "runs?limit=101", "tasks?before=x"]
    {
        let refused = get(&conductor.url(query)).failure(400, "invalid_request");
        let field = query.split(['?', '=']).nth(1).unwrap();
        assert!(refused["message"].as_str().unwrap().contains(&format!("`{field}`")), "{refused}");
    }
    let task = conductor.submit(steps, json!({}));
    conductor.completes(&task);
    for query in ["limit=501", "limit=0", "after=-1", "wait_ms=600001"] {
        get(&conductor.url(&format!("tasks/{task}/logs?{query}"))).failure(400, "invalid_request");
    }
    let other = task.replace("task-", "run-");
    for path in [
        "tasks/x",
        "tasks/task-00000000-2",
        &format!("tasks/{other}"),
        "tasks/x/logs",
        "runs/x",
        "runs?task_id=x",
    ] {
        get(&conductor.url(path)).failure(404, "not_found");
    }
    conductor.post("tasks/x/cancel", &json!({})).failure(404, "not_found");
    conductor.post(&format!("tasks/{task}/cancel"), &json!({})).failure(409, "conflict");
}

#[test]
fn the_same_key_is_one_task_whoever_dies_meanwhile() {
    let shared = TempDir::new();
    let mut conductor = Conductor::start(shared.path(), None, &[]);
    let body = json!({ "steps": [exec("echo x >> ran")], "cwd": shared.path() });
    let submit = |conductor: &Conductor| {
        let mut task = conductor.ask("tasks", &body, "k").unwrap().data(201)["task"].take();
        task["task_id"].take()
    };
    let id = submit(&conductor);
    assert_eq!(submit(&conductor), id);
    let task = conductor.completes(id.as_str().unwrap());
    let again = conductor.ask("tasks", &body, "k").unwrap().data(201)["task"].take();
    assert_eq!(again, task, "as it stands now");
    let other = json!({ "steps": [exec("echo y >> ran")], "cwd": shared.path() });
    for end in [Conductor::crash, Conductor::restart] {
        conductor.ask("tasks", &other, "k").unwrap().failure(409, "conflict");
        end(&mut conductor);
        assert_eq!(submit(&conductor), id);
    }
    assert_eq!(fs::read_to_string(shared.path().join("ran")).unwrap(), "x\n");
    assert_eq!(get(&conductor.url("tasks")).data(200)["count"], 1);
}

#[test]
fn a_task_can_be_cancelled_while_it_waits_and_while_it_runs() {
    let (node, conductor) = pair(&Codex::Fake, &[], &[]);
    let cwd = json!({ "cwd": node.dir.path() });
    let running = conductor
        .submit(json!([exec("sleep 1000 & echo $! > other; echo $$ > pid; exec sleep 1001")]), cwd.clone());
    let turning = conductor.submit(json!([codex("[[hang]]")]), cwd.clone());
    let commands = ["pid", "other"].map(|name| process(&node.dir.path().join(name)));
    let turn = eventually("a turn", SOON, || {
        let session = conductor.runs(&turning).first()?["session_id"].as_str()?.to_owned();
        let turn = node.read(&session)["currentTurnId"].as_str()?.to_owned();
        Some((session, turn))
    });
    let waiting = conductor.submit(json!([exec("touch never")]), cwd);
    let cancel = |id: &str| {
        conductor.post(&format!("tasks/{id}/cancel"), &json!({ "reason": "a test" })).data(200)["task"].take()
    };
    assert_eq!(cancel(&waiting)["status"], "canceled", "at once");
    cancel(&running);
    cancel(&turning);
    for id in [&running, &turning, &waiting] {
        let task = conductor.becomes(id, "canceled", SOON);
        assert!(task["finished_at"].is_string() && task["result"].is_null(), "{task:#}");
        assert_eq!(cancel(id)["status"], "canceled", "again");
    }
    for id in [&running, &turning] {
        assert_eq!(conductor.runs(id)[0]["status"], "canceled");
    }
    eventually("the end of both commands", SOON, || (!commands.iter().any(Pid::lives)).then_some(()));
    let (session, turn) = turn;
    eventually("a closed session", SOON, || (node.read(&session)["status"] == "closed").then_some(()));
    assert_eq!(node.end(&session, &turn, SOON), "interrupted");
    assert_eq!(conductor.runs(&waiting), [json!(null); 0]);
    assert!(!node.dir.path().join("never").exists());
}

#[test]
fn a_log_is_read_from_any_line_on_and_waits_for_the_next() {
    let shared = TempDir::new();
    let conductor = Conductor::start(shared.path(), None, &[]);
    let steps = json!([
        exec("echo one"),
        exec("until [ -e go ]; do sleep 0.02; done; echo two"),
        exec("[ -e again ] || { touch again; exit 3; }")
    ]);
    let task = conductor.submit(steps, json!({ "cwd": shared.path(), "max_attempts": 2 }));
    let read = |query: &str| get(&conductor.url(&format!("tasks/{task}/logs?{query}"))).data(200);
    let messages = |page: &Value| {
        let lines = page["logs"].as_array().unwrap().iter();
        lines.map(|line| line["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("the second step", SOON, || {
        read("")["logs"].as_array().filter(|lines| lines.len() >= 4).map(drop)
    });
    let page = read("");
    assert_eq!(
        messages(&page)[..3],
        ["Step 1 of 3: $ echo one", "one", "The command ended with exit code 0."]
    );
    let last = page["logs"].as_array().unwrap().last().unwrap()["seq"].as_u64().unwrap();
    let (asked, begun) = (read(&format!("after={last}&wait_ms=200")), Instant::now());
    assert_eq!((asked["count"].as_u64(), begun.elapsed() < Duration::from_secs(5)), (Some(0), true));
    let heard = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| read(&format!("after={last}&wait_ms=60000")));
        fs::write(shared.path().join("go"), "").unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(messages(&heard)[0], "two");
    conductor.completes(&task);

    let all = read("limit=500")["logs"].take();
    let all = all.as_array().unwrap();
    let mut paged: Vec<Value> = Vec::new();
    loop {
        let after = paged.last().map_or(0, |line| line["seq"].as_u64().unwrap());
        let page = read(&format!("after={after}&limit=2"));
        assert!(page["logs"].as_array().unwrap().len() <= 2);
        if page["count"] == 0 {
            break;
        }
        paged.extend(page["logs"].as_array().unwrap().iter().cloned());
    }
    assert_eq!(paged, *all);
    assert_eq!(read("limit=2")["logs"].as_array().unwrap()[..], all[all.len() - 2..], "the newest");
    let runs = conductor.runs(&task);
    assert_eq!(runs.len(), 2);
    for run in &runs {
        let id = run["run_id"].as_str().unwrap();
        let of_run: Vec<_> = all.iter().filter(|line| line["run_id"] == id).cloned().collect();
        assert_eq!(read(&format!("run_id={id}&limit=500"))["logs"], json!(of_run));
        assert!(!of_run.is_empty());
    }
    assert_eq!(read("run_id=run-00000000-1")["count"], 0);
}

#[test]
fn a_run_writes_two_thousand_lines_and_then_only_how_it_ended() {
    let (_node, conductor) = pair(&Codex::Fake, &[], &[]);
    let task =
        conductor.submit(json!([codex("[[items 3000 10]]"), exec("exit 3")]), json!({ "max_attempts": 1 }));
    conductor.becomes(&task, "failed", SOON);
    let (mut lines, mut after) = (Vec::new(), 0);
    loop {
        let page = get(&conductor.url(&format!("tasks/{task}/logs?after={after}&limit=500"))).data(200);
        let Some(last) = page["logs"].as_array().unwrap().last() else { break };
        after = last["seq"].as_u64().unwrap();
        lines.extend(page["logs"].as_array().unwrap().clone());
    }
    assert_eq!(lines.len(), 2002, "2000, that there are more, and the end");
    assert_eq!(lines[2000]["message"], "Further lines of this run are left out.");
    assert_eq!(lines[2001]["level"], "error");
}
