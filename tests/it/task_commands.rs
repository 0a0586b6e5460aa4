//! The commands that give conductor work: as somebody uses them, against real daemons.

use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::http::{get, metric, post, request};
use e2e::node::{Node, conductor_launch};
use e2e::process::{Daemon, Launch, Process};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use e2e::websocket::Socket;
use serde_json::{Value, json};

const TOKEN: &str = "a-token-of-this-test";

struct Bench {
    node: Node,
    conductor: Daemon,
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Bench {
    fn start() -> Bench {
        let node = Node::start(&Codex::Fake, &[]);
        let launch = Launch::of("conductor", node.dir.path()).env("BAA_SHARED_TOKEN", TOKEN);
        let conductor = Daemon::start(&conductor_launch(launch, node.codexd.url()));
        node.ready();
        Bench { node, conductor }
    }

    fn command(&self, dir: &TempDir, args: &[&str]) -> Launch {
        let launch = Launch::of("conductor", dir.path()).args(args).env("BAA_SHARED_TOKEN", TOKEN);
        launch
            .env("BAA_CONDUCTOR_LOCAL_API", self.conductor.url())
            .env("USER", "tester")
            .env("BAA_CONDUCTOR_PRIORITY", "7")
    }

    fn run(&self, args: &[&str]) -> Said {
        let (status, out, err) = self.command(&TempDir::new(), args).run(SOON);
        Said { code: status.code(), out, err }
    }

    fn task(&self, id: &str) -> Value {
        get(&format!("{}/v1/tasks/{id}", self.conductor.url())).data(200)["task"].take()
    }

    #[track_caller]
    fn becomes(&self, id: &str, status: &str) {
        eventually(&format!("{id} {status}"), SOON, || (self.task(id)["status"] == status).then_some(()));
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn a_task_is_given_followed_and_listed() {
    let bench = Bench::start();
    assert_eq!(bench.run(&["tasks"]).out, "No task.\n");
    let dir = TempDir::new();
    let cwd = dir.path().to_str().unwrap();
    let submit = ["submit", "[[say hello you]]", "--step-exec", "pwd; echo two", "--step-exec", "echo three"];
    let said = bench.run(&[&submit[..], &["--cwd", cwd, "--title", "All of it", "--follow"]].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    let id = said.err.split(' ').nth(1).unwrap().to_owned();
    assert!(said.err.ends_with(&format!("conductor: {id} is completed\n")), "{}", said.err);
    let at = |text: &str| said.out.find(text).unwrap_or_else(|| panic!("{text}: {}", said.out));
    assert!(at("hello you") < at(cwd) && at(cwd) < at("three"), "{}", said.out);
    let task = bench.task(&id);
    assert_eq!(task["priority"], 0, "the node's own rank is none of a task");
    assert_eq!(
        (&task["title"], &task["cwd"], &task["result"]["exit_code"]),
        (&json!("All of it"), &json!(cwd), &json!(0))
    );
    // The same again, a line of JSON each, and from any place on.
    let all = lines(&bench.run(&["logs", &id, "--json"]).out);
    let messages: Vec<_> = all.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert!(messages.contains(&"hello you") && all.len() > 4, "{messages:?}");
    let after = all[1]["seq"].to_string();
    assert_eq!(lines(&bench.run(&["logs", &id, "--json", "--after", &after]).out), all[2..]);
    let followed = bench.run(&["logs", &id, "--follow", "--json"]);
    let (followed, code) = (lines(&followed.out), followed.code);
    assert_eq!((&followed[..all.len()], code), (&all[..], Some(0)));
    assert_eq!(followed[all.len()]["task_id"], id.as_str());

    let late = bench.run(&["cancel", &id]);
    assert_eq!(late.code, Some(1), "{}", late.out);
    assert!(late.err.contains("(conflict, request "), "{}", late.err);

    let only = bench.run(&["submit", "--step-exec", "exit 3", "--max-attempts", "1", "--json"]);
    let only: Value = serde_json::from_str(&only.out).unwrap();
    assert_eq!(only["steps"].as_array().unwrap().len(), 1);
    let failed = only["task_id"].as_str().unwrap();
    let said = bench.run(&["logs", failed, "--follow"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.starts_with(&format!("conductor: {failed} is failed: ")), "{}", said.err);
    let table = bench.run(&["tasks"]).out;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["TASK", "STATUS", "STEP", "FAILED", "AGE", "TITLE"]);
    assert_eq!(rows[1][..4], [failed, "failed", "0/1", "1/1"]);
    assert_eq!(rows[2][..4], [id.as_str(), "completed", "3/3", "0/3"]);
    assert!(table.lines().nth(1).unwrap().ends_with("exit 3") && table.ends_with("All of it\n"), "{table}");
    let page = bench.run(&["tasks", "--limit", "1", "--json"]);
    let page: Value = serde_json::from_str(&page.out).unwrap();
    assert_eq!((&page["count"], &page["next_before"]), (&json!(1), &json!(failed)));

    let base = bench.conductor.url();
    let finished =
        |status: &str| metric(base, &format!("baa_conductor_tasks_finished_total{{status=\"{status}\"}}"));
    assert_eq!(["completed", "failed", "canceled"].map(finished), [Some(1.0), Some(1.0), Some(0.0)]);
    assert_eq!(metric(base, "baa_conductor_runs_started_total"), Some(2.0));
    assert_eq!(metric(base, "baa_conductor_steps_finished_total"), Some(3.0));
}

#[test]
fn who_leaves_a_task_leaves_it_running_and_can_end_it() {
    let bench = Bench::start();
    let dir = TempDir::new();
    let go = dir.path().join("go");
    let wait = format!("while ! [ -e {} ]; do sleep 0.1; done", go.display());
    let mut submit = Process::start(&bench.command(&dir, &["submit", "--step-exec", &wait, "--follow"]));
    let id = eventually("the task", SOON, || submit.stderr().split(' ').nth(1).map(str::to_owned));
    eventually("a line", SOON, || submit.stdout().contains("while !").then_some(()));
    let run = get(&format!("{}/v1/runs", bench.conductor.url())).data(200)["runs"][0].take();
    assert!(run["last_line"].as_str().unwrap().contains("while !"), "{run}");
    submit.signal("INT");
    assert_eq!(submit.wait(SOON).unwrap().code(), Some(1));
    let said = submit.stderr();
    assert!(
        said.contains(&format!("SIGINT: {id} goes on; `conductor logs {id} --follow --after ")),
        "{said}"
    );
    assert!(said.contains(&format!("`conductor cancel {id}` ends it")), "{said}");
    assert_eq!(bench.task(&id)["status"], "running");
    // Somebody else follows; it ends with the task, though no line comes.
    let mut follow = Process::start(&bench.command(&dir, &["logs", &id, "--follow"]));
    eventually("a line", SOON, || follow.stdout().contains("while !").then_some(()));
    let said = bench.run(&["cancel", &id, "--reason", "enough"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), format!("{id} is being ended\n").as_str()));
    assert_eq!(follow.wait(SOON).unwrap().code(), Some(1));
    assert!(follow.stderr().contains(&format!("{id} is canceled: enough")), "{}", follow.stderr());
    assert_eq!(bench.run(&["cancel", &id]).out, format!("{id} is canceled\n"));
}

#[test]
fn the_mode_is_set_and_what_waits_waits() {
    let mut bench = Bench::start();
    let said = bench.run(&["pause", "--reason", "a look around"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "mode: paused\nqueued_tasks: 0\nactive_runs: 0\n"));
    let state = get(&format!("{}/v1/system/state", bench.conductor.url())).data(200);
    let who = (&state["requested_by"], &state["reason"], &state["source"]);
    assert_eq!(who, (&json!("tester"), &json!("a look around"), &json!("command line")));
    let submit = ["submit", "[[say late]]", "--key", "once", "--task-priority", "-3"];
    let (first, second) = (bench.run(&submit), bench.run(&submit));
    let id = first.out.trim();
    assert_eq!(first.out, second.out, "one key, one task");
    assert_eq!(bench.task(id)["priority"], -3);
    let listed = bench.run(&["tasks", "--status", "queued", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&listed.out).unwrap()["count"], 1);
    let drained: Value = serde_json::from_str(&bench.run(&["drain", "--json"]).out).unwrap();
    assert_eq!(
        (&drained["mode"], &drained["drained"], &drained["queued_tasks"]),
        (&json!("draining"), &json!(true), &json!(1))
    );
    assert_eq!(bench.run(&["resume"]).code, Some(0));
    bench.becomes(id, "completed");
    for (args, code, why) in [
        (
            &["submit"][..],
            2,
            "there is nothing to do: TEXT or --step-exec is required; see `conductor help submit`",
        ),
        (&["submit", " "], 2, "TEXT is empty"),
        (&["submit", "x", "--key", "a b"], 2, "--key: `a b` is not 1 to 128 visible ASCII characters"),
        (&["submit", "x", "--task-priority", "high"], 2, "--task-priority: `high` is no whole number"),
        (
            &["submit", "x", "--follow", "--status", "failed"],
            2,
            "--status is not for `submit`, but for `tasks`",
        ),
        (&["submit", "x", "--sandbox", "none"], 1, "Field `sandbox` must be one of"),
        (&["submit", "x", "--not-before", "soon"], 1, "Field `not_before` must be a time like"),
        (&["logs", "nobody"], 1, "Unknown task \"nobody\". (not_found, request "),
        (&["tasks", "--status", "odd"], 1, "Query value `status` must be one of"),
        (&["cancel"], 2, "`cancel` needs TASK"),
    ] {
        let said = bench.run(args);
        assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "{args:?}: {}", said.err);
        assert!(said.err.starts_with("conductor: ") && said.err.contains(why), "{args:?}: {}", said.err);
    }
    let evil = bench.run(&["submit", "[[say red\u{1b}[31m]]", "--follow"]);
    assert!(evil.out.contains("red\\u001b[31m") && !evil.out.contains('\u{1b}'), "{:?}", evil.out);
    // conductor goes away, and says so with how to go on.
    let dir = TempDir::new();
    let mut follow = Process::start(&bench.command(&dir, &["submit", "[[say-slow 5000 a b]]", "--follow"]));
    eventually("a line", SOON, || follow.stdout().contains("a turn").then_some(()));
    let sessions = || bench.node.status()["snapshot"]["sessionRegistry"]["sessions"].take();
    let runs = |session: &Value| session["currentTurnId"].is_string() && session["purpose"] == "worker";
    let at_work = || sessions().as_array().unwrap().iter().any(runs);
    eventually("its turn", SOON, || at_work().then_some(()));
    bench.conductor.kill();
    assert_eq!(follow.wait(SOON).unwrap().code(), Some(69));
    let said = follow.stderr();
    assert!(said.contains("no conductor at http") && said.contains("--follow --after "), "{said}");
    assert!(at_work(), "its turn goes on: {}", sessions());
}

/// Tasks come by the dozen; a client of the bridge is told how many wait, and not each time.
#[test]
fn a_client_of_the_bridge_is_not_flooded_by_what_is_queued() {
    const TASKS: u64 = 100;
    let bench = Bench::start();
    bench.run(&["pause"]);
    let origin = [("origin", "moz-extension://0d5f8a0e-7f3b-4a5e-9f0a-6a1c5e1a2b3c")];
    let mut socket = Socket::connect(&format!("{}/ws/firefox", bench.conductor.url()), &origin).unwrap();
    let begun = Instant::now();
    for _ in 0..TASKS {
        post(
            &format!("{}/v1/tasks", bench.conductor.url()),
            &json!({"steps": [{"kind": "codex", "input": "x"}]}),
        )
        .data(201);
    }
    let mut told = 0;
    loop {
        let system = socket.text(SOON)["snapshot"]["system"].take();
        told += 1;
        if system["queued_tasks"] == TASKS {
            break;
        }
    }
    let most = begun.elapsed().as_millis() / Duration::from_millis(500).as_millis() + 3;
    assert!(told <= most, "{told} in {:?}", begun.elapsed());
    // A change of the mode does not wait for the next round of counts.
    request(
        "POST",
        &format!("{}/v1/tasks", bench.conductor.url()),
        &[],
        br#"{"steps":[{"kind":"codex","input":"x"}]}"#,
    )
    .data(201);
    bench.run(&["drain"]);
    eventually("the mode", SOON, || {
        (socket.text(SOON)["snapshot"]["system"]["mode"] == "draining").then_some(())
    });
}
