//! Worker mode as a caller sees it: tasks from their submission to their end, on real daemons that die, pause and pass on.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use e2e::codex::Codex;
use e2e::http::{Response, get, try_request};
use e2e::node::Node;
use e2e::process::{Daemon, Launch};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

mod faults;
mod modes;
mod passing;
mod routes;
mod scale;
mod schedule;
mod torture;

/// Who may run commands.
const TOKEN: &str = "s3cret-of-the-tasks";
/// A conductor, with its output in a folder of its own.
struct Conductor {
    daemon: Daemon,
    launch: Launch,
    _dir: TempDir,
}

impl Conductor {
    /// Starts it on the folders in `shared`, before a codexd or none.
    #[track_caller]
    fn start(shared: &Path, codexd: Option<&str>, args: &[&str]) -> Conductor {
        let dir = TempDir::new();
        let mut launch = Launch::of("conductor", dir.path())
            .args(["start", "--local-api", "http://127.0.0.1:0", "--shared-token", TOKEN])
            .args(["--state-dir".into(), shared.join("state").into_os_string()])
            .args(["--logs-dir".into(), shared.join("logs").into_os_string()])
            .args(["--runs-dir".into(), shared.join("runs").into_os_string()])
            .args(args);
        if let Some(codexd) = codexd {
            launch = launch.args(["--codexd-local-api", codexd]);
        }
        Conductor { daemon: Daemon::start(&launch), launch, _dir: dir }
    }

    /// `kill -9` of it alone, and another one on the same folders, which ends what the dead one left running.
    #[track_caller]
    fn crash(&mut self) {
        self.daemon.kill();
        self.again();
    }

    /// Stops it in good order, and starts another one.
    #[track_caller]
    fn restart(&mut self) {
        assert!(self.daemon.terminate(SOON).success());
        self.again();
    }

    /// Another one in the place of one that has ended.
    #[track_caller]
    fn again(&mut self) {
        self.daemon = Daemon::start(&self.launch);
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.daemon.url())
    }

    fn ask(&self, path: &str, body: &Value, key: &str) -> std::io::Result<Response> {
        let authorization = format!("Bearer {TOKEN}");
        let mut headers = vec![("content-type", "application/json"), ("authorization", &authorization)];
        if !key.is_empty() {
            headers.push(("idempotency-key", key));
        }
        try_request("POST", &self.url(path), &headers, body.to_string().as_bytes())
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Response {
        self.ask(path, body, "").unwrap()
    }

    /// Submits a task with these steps and further fields: its id.
    #[track_caller]
    fn submit(&self, steps: Value, more: Value) -> String {
        let mut body = more;
        body["steps"] = steps;
        let task = self.post("tasks", &body).data(201)["task"].take();
        task["task_id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn task(&self, id: &str) -> Value {
        get(&self.url(&format!("tasks/{id}"))).data(200)["task"].take()
    }

    /// The task once it has this status.
    #[track_caller]
    fn becomes(&self, id: &str, status: &str, within: Duration) -> Value {
        eventually(&format!("{id} {status}"), within, || {
            let task = self.task(id);
            let is = task["status"].as_str().unwrap();
            let over = !matches!(is, "queued" | "running");
            assert!(is == status || !over, "{id} is {is}: {task:#}\n{:#?}", self.lines(id));
            (is == status).then_some(task)
        })
    }

    #[track_caller]
    fn completes(&self, id: &str) -> Value {
        self.becomes(id, "completed", SOON)
    }

    /// The runs of a task, the oldest first.
    #[track_caller]
    fn runs(&self, id: &str) -> Vec<Value> {
        let runs = get(&self.url(&format!("runs?limit=100&task_id={id}"))).data(200)["runs"].take();
        let mut runs: Vec<Value> = runs.as_array().unwrap().clone();
        runs.reverse();
        runs
    }

    /// What a task's runs wrote.
    #[track_caller]
    fn lines(&self, id: &str) -> Vec<String> {
        let logs = get(&self.url(&format!("tasks/{id}/logs?limit=500"))).data(200)["logs"].take();
        logs.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn system(&self) -> Value {
        get(&self.url("system/state")).data(200)
    }

    fn leads(&self) -> bool {
        get(&format!("{}/rolez", self.daemon.url())).text() == "leader\n"
    }
}

/// A codexd at an address that it keeps, with a conductor before it: all of a node.
#[track_caller]
fn pair(codex: &Codex, codexd_args: &[&str], conductor_args: &[&str]) -> (Node, Conductor) {
    let dir = TempDir::new();
    let launch = Launch::of("codexd", dir.path());
    let node = Node::at(&free_base(), codex, dir, launch, codexd_args);
    let conductor = Conductor::start(node.dir.path(), Some(node.codexd.url()), conductor_args);
    (node, conductor)
}

/// An address that nobody listens at.
fn free_base() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

fn codex(input: &str) -> Value {
    json!({ "kind": "codex", "input": input })
}

fn exec(command: &str) -> Value {
    json!({ "kind": "exec", "command": command })
}

/// How often each line is in a file that commands append to.
fn count(path: &Path, line: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|it| *it == line).count() as u64
}

/// Waits for a file that a command makes.
#[track_caller]
fn appears(path: &Path) {
    eventually(&format!("{}", path.display()), SOON, || path.exists().then_some(()));
}

/// The process that a command wrote down with `echo $$`. Commands do not carry the mark that finds what daemons start: they
/// see nothing of the daemon's environment that begins with `BAA_`.
#[track_caller]
fn process(path: &Path) -> Pid {
    let read = || std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    Pid(eventually(&format!("a process in {}", path.display()), SOON, read).trim().parse().unwrap())
}

/// A command, which is ended with the test at the latest.
struct Pid(u32);

impl Pid {
    fn lives(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }
}

impl Drop for Pid {
    fn drop(&mut self) {
        if self.lives() {
            e2e::process::kill_pid(self.0);
        }
    }
}
