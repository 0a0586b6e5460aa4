//! A conversation through codexd, over HTTP.

use std::time::Instant;

use e2e::codex::Codex;
use e2e::http::{get, post};
use e2e::process::{Daemon, Launch};
use e2e::wait::SOON;
use e2e::websocket::{Got, Socket};
use serde_json::{Value, json};

use crate::driver::{Bench, Driver, Event, merge};

/// A running codexd with its child, and one reader of its events from the first on.
pub(crate) struct Codexd {
    conductor: Option<Daemon>,
    pub(crate) daemon: Daemon,
    launch: Launch,
    socket: Socket,
    heard: Vec<Value>,
    at: usize,
    /// Last, for fields are dropped in order: the folder goes when nobody writes there any more.
    pub(crate) bench: Bench,
}

impl Codexd {
    pub(crate) fn start(codex: Codex) -> Codexd {
        Codexd::with(Bench::new(codex), &[])
    }

    /// With more arguments for the child.
    pub(crate) fn with(bench: Bench, child: &[&str]) -> Codexd {
        let launch = launch(&bench, child);
        let daemon = Daemon::start(&launch);
        let socket = events(&daemon, 0);
        Codexd { bench, daemon, launch, conductor: None, socket, heard: Vec::new(), at: 0 }
    }

    /// With a conductor in front, through which all requests go.
    pub(crate) fn behind_conductor(codex: Codex) -> Codexd {
        let mut codexd = Codexd::start(codex);
        let args = ["start", "--local-api", "http://127.0.0.1:0", "--codexd-local-api", codexd.daemon.url()];
        let launch = Launch::of("conductor", codexd.bench.dir.path()).args(args);
        codexd.conductor = Some(Daemon::start(&launch));
        codexd
    }

    pub(crate) fn url(&self, path: &str) -> String {
        match &self.conductor {
            Some(conductor) => format!("{}/v1/codex/{path}", conductor.url()),
            None => format!("{}/v1/codexd/{path}", self.daemon.url()),
        }
    }

    pub(crate) fn session(&self, id: &str) -> Value {
        get(&self.url(&format!("sessions/{id}"))).data(200)["session"].take()
    }

    /// All events of the log that came so far, codexd's own too.
    pub(crate) fn log(&self) -> &[Value] {
        &self.heard
    }

    /// Waits for the next event of the log that is wanted, after the one that was waited for before.
    pub(crate) fn wait_log(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + SOON;
        loop {
            while let Some(event) = self.heard.get(self.at) {
                self.at += 1;
                if wanted(event) {
                    return event.clone();
                }
            }
            let types =
                || self.heard.iter().map(|event| event["type"].to_string()).collect::<Vec<_>>().join("\n");
            match self.socket.next(end.saturating_duration_since(Instant::now())) {
                Got::Text(hello) if hello["type"] == "stream.hello" => {}
                Got::Text(event) => self.heard.push(event),
                other => panic!("{other:?} instead of {what}; heard\n{}", types()),
            }
        }
    }

    /// Hears all that the log holds by now.
    pub(crate) fn hear_all(&mut self) {
        let latest = events(&self.daemon, 0).text(SOON)["latestSeq"].clone();
        self.at = self.heard.len();
        if self.heard.last().is_none_or(|last| last["seq"].as_u64() < latest.as_u64()) {
            self.wait_log("the newest event", |event| event["seq"] == latest);
        }
    }

    /// `kill -9` of codexd itself.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Starts it again on the same state, and reads its events from where the last reader was.
    pub(crate) fn start_again(&mut self) {
        let last = self.heard.last().map_or(0, |event| event["seq"].as_u64().unwrap());
        self.daemon = Daemon::start(&self.launch);
        self.socket = events(&self.daemon, last);
    }

    /// `kill -9` of the child with all that belongs to it; waits until codexd has seen it.
    pub(crate) fn kill_child(&mut self) {
        let before = self.heard.len();
        for pid in self.daemon.descendants() {
            let _ = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        self.at = before;
        self.wait_log("the child's end", |event| event["type"] == "child.exited");
    }
}

/// How codexd is started for tests: on a free port, all that it keeps below one folder.
pub(crate) fn launch(bench: &Bench, child: &[&str]) -> Launch {
    let (program, args) = bench.codex.command();
    let mut all = vec!["start".to_owned(), "--repo-root".to_owned(), bench.dir.path().display().to_string()];
    all.extend(["--local-api-base".to_owned(), "http://127.0.0.1:0".to_owned()]);
    all.extend(["--server-command".to_owned(), program.display().to_string()]);
    all.extend(args.iter().chain(child).flat_map(|arg| ["--server-arg".to_owned(), (*arg).to_owned()]));
    let launch = Launch::of("codexd", bench.dir.path()).args(all);
    launch.env("CODEX_HOME", &bench.home).env("HOME", bench.dir.path()).env("NO_COLOR", "1")
}

fn events(daemon: &Daemon, after: u64) -> Socket {
    Socket::connect(&format!("{}/v1/codexd/events?after={after}", daemon.url()), &[]).unwrap()
}

/// The app-server's event in a line of the log, or its request, which is a resource of codexd's own.
fn event(logged: &Value) -> Option<Event> {
    if logged["type"] == "approval.requested" {
        let asked = &logged["detail"];
        let method = match asked["kind"].as_str()? {
            "command" => "item/commandExecution/requestApproval",
            "fileChange" => "item/fileChange/requestApproval",
            _ => "item/tool/requestUserInput",
        };
        let (params, handle) = (asked["request"].clone(), asked["approvalId"].clone());
        return Some(Event { method: method.to_owned(), params, handle });
    }
    let method = logged["type"].as_str()?.strip_prefix("app-server.")?;
    let method = if method == "turn.message.delta" {
        "item/agentMessage/delta".into()
    } else {
        method.replace('.', "/")
    };
    Some(Event { method, params: logged["detail"].clone(), handle: Value::Null })
}

impl Driver for Codexd {
    fn bench(&self) -> &Bench {
        &self.bench
    }

    fn open(&mut self, settings: Value) -> String {
        let mut body = json!({"cwd": self.bench.cwd, "sandbox": "danger-full-access"});
        merge(&mut body, settings);
        let opened = post(&self.url("sessions"), &body).data(201);
        opened["session"]["sessionId"].as_str().unwrap().to_owned()
    }

    fn say(&mut self, conversation: &str, text: &str, more: Value) -> String {
        let mut body = json!({"sessionId": conversation, "input": text});
        merge(&mut body, more);
        let started = post(&self.url("turn"), &body).data(202);
        assert_eq!(started["accepted"], true);
        started["turnId"].as_str().unwrap().to_owned()
    }

    fn wait(&mut self, what: &str, wanted: &dyn Fn(&Event) -> bool) -> Event {
        let logged = self.wait_log(what, |logged| event(logged).is_some_and(|event| wanted(&event)));
        event(&logged).unwrap()
    }

    fn events(&self) -> Vec<Event> {
        self.heard.iter().filter_map(event).collect()
    }

    fn interrupt(&mut self, conversation: &str, _turn: &str) {
        post(&self.url(&format!("sessions/{conversation}/interrupt")), &json!({})).data(202);
    }

    fn steer(&mut self, conversation: &str, turn: &str, text: &str) -> Result<(), String> {
        let body = json!({"sessionId": conversation, "input": text, "expectedTurnId": turn});
        let answer = post(&self.url("turn"), &body);
        if answer.status == 202 { Ok(()) } else { Err(answer.json()["message"].to_string()) }
    }

    fn answer(&mut self, request: &Event, answer: Value) {
        post(&self.url(&format!("approvals/{}", request.handle.as_str().unwrap())), &answer).data(200);
    }

    fn answer_too_late(&mut self, request: &Event, answer: Value) {
        let url = self.url(&format!("approvals/{}", request.handle.as_str().unwrap()));
        post(&url, &answer).failure(409, "conflict");
    }

    fn crash(&mut self, _conversation: &str) {
        self.kill_child();
    }
}
