//! The recorded sessions of the real CLI, played by the fake to a running codexd: what codexd makes of each is golden.
//!
//! The recorded client's steps are taken over codexd's HTTP as far as it has them; a golden file holds what the calls
//! answered, the types of all events in order (adjacent repeats folded), and the session at the end.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::codex::Codex;
use e2e::golden::golden;
use e2e::http::{Response, get, post};
use serde_json::{Value, json};

use crate::codexd::Codexd;
use crate::driver::{Bench, merge};
use crate::through_codexd::gapless;

macro_rules! played {
    ($($test:ident: $($file:literal)*;)*) => {
        $(#[test]
        fn $test() {
            play(stringify!($test), &[$($file),*]);
        })*
    };
}

played! {
    hello_turn: "01_hello_turn";
    exec_approval_accept: "02_exec_approval_accept";
    exec_approval_decline: "03_exec_approval_decline";
    exec_approval_cancel: "04_exec_approval_cancel";
    file_change_approval_accept: "05_file_change_approval_accept";
    interrupt_slow_turn: "06_interrupt_slow_turn";
    interrupt_while_approval_pending: "07_interrupt_while_approval_pending";
    failure_http_500: "08_failure_http_500";
    retryable_stream_cut_then_ok: "09_retryable_stream_cut_then_ok";
    retries_exhausted: "10_retries_exhausted";
    steer: "11_steer";
    second_turn_start_while_active: "12_second_turn_start_while_active";
    resume_after_kill: "13_resume_after_kill_part1_killed_midturn" "14_resume_after_kill_part2_new_process";
    resume_in_new_process: "14_resume_after_kill_part2_new_process";
    request_user_input_plan_mode: "15_request_user_input_plan_mode";
    command_streaming_no_approval: "16_command_streaming_no_approval";
    handshake_errors: "17_handshake_errors";
    compact_archive_unarchive: "18_compact_archive_unarchive";
}

fn play(name: &str, files: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let files = files.iter().map(|file| folder.join(format!("{file}.jsonl"))).collect::<Vec<PathBuf>>();
    let args = files.iter().flat_map(|file| ["--play", file.to_str().unwrap()]).collect::<Vec<_>>();
    let codexd = Codexd::with(Bench::new(Codex::Fake), &args);
    let mut player =
        Player { codexd, sessions: Vec::new(), expected: 0, behind: false, calls: String::new() };
    for file in &files {
        let lines = fs::read_to_string(file).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
        player.follow(&lines);
    }
    golden(&format!("transcripts/{name}.txt"), &player.report());
}

struct Player {
    codexd: Codexd,
    /// Session ids with the recorded thread of each, oldest first.
    sessions: Vec<(String, String)>,
    /// Notifications that the recording has said so far.
    expected: usize,
    /// Whether codexd does by the next turn what the recorded client did by hand.
    behind: bool,
    calls: String,
}

impl Player {
    fn follow(&mut self, lines: &[Value]) {
        for line in lines {
            let msg = &line["msg"];
            match line["dir"].as_str().unwrap() {
                "out" if msg.get("id").is_none() && !is_delta(msg["method"].as_str().unwrap()) => {
                    self.expected += 1
                }
                "in" => {
                    let answer =
                        lines.iter().find(|other| other["dir"] == "out" && other["msg"]["id"] == msg["id"]);
                    self.step(msg, answer.map_or(&Value::Null, |answer| &answer["msg"]));
                }
                // Here the recorded process was killed, and so is its player; the next one plays on.
                "note" => {
                    self.caught_up();
                    self.codexd.wait_log("the child's death", |event| event["type"] == "child.exited");
                    self.codexd.wait_log("the next child", |event| event["type"] == "child.ready");
                }
                _ => {}
            }
        }
        self.behind = false;
        self.caught_up();
    }

    /// Waits until codexd has logged all that the recording has said so far.
    fn caught_up(&mut self) {
        let seen = |codexd: &Codexd| codexd.log().iter().filter(|event| is_told(event)).count();
        while !self.behind && seen(&self.codexd) < self.expected {
            self.codexd.wait_log("the next recorded notification", is_told);
        }
    }

    /// One step of the recorded client, over HTTP.
    fn step(&mut self, msg: &Value, answer: &Value) {
        let params = &msg["params"];
        let thread = params["threadId"].as_str().unwrap_or_default();
        let session = self.sessions.iter().find(|(_, of)| of == thread).map(|(session, _)| session.clone());
        match (msg["method"].as_str(), session) {
            (Some("thread/start"), _) => {
                self.caught_up();
                let mut body = if params.is_object() { params.clone() } else { json!({}) };
                merge(&mut body, json!({"cwd": self.codexd.bench.cwd}));
                self.open(&body, &answer["result"]["thread"]["id"]);
            }
            (Some("thread/resume"), session) => {
                self.caught_up();
                self.open(&json!({"threadId": thread}), &params["threadId"]);
                self.behind |= session.is_some();
            }
            (Some("turn/start"), Some(session)) if answer.get("error").is_none() => {
                self.caught_up();
                let mut body = params.clone();
                merge(&mut body, json!({"sessionId": session}));
                self.call("turn", &body);
                self.behind = false;
            }
            (Some("turn/steer"), Some(session)) => {
                self.caught_up();
                let turn = params["expectedTurnId"].clone();
                self.call(
                    "turn",
                    &json!({"sessionId": session, "input": params["input"], "expectedTurnId": turn}),
                );
            }
            (Some("turn/interrupt"), Some(session)) => {
                self.caught_up();
                self.call(&format!("sessions/{session}/interrupt"), &json!({}));
            }
            (None, _) if msg["result"].is_object() => {
                self.caught_up();
                self.approve(&msg["result"]);
            }
            _ => {} // nothing that codexd's callers can ask for
        }
    }

    fn open(&mut self, body: &Value, thread: &Value) {
        let answer = self.call("sessions", body);
        if answer.status == 201 {
            let id = answer.json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned();
            self.sessions.push((id, thread.as_str().unwrap().to_owned()));
        }
    }

    fn approve(&mut self, answer: &Value) {
        let listed = get(&self.codexd.url("approvals")).json();
        match listed["data"]["approvals"].get(0).and_then(|approval| approval["approvalId"].as_str()) {
            Some(id) => drop(self.call(&format!("approvals/{id}"), answer)),
            None => writeln!(self.calls, "no approval to answer").unwrap(),
        }
    }

    fn call(&mut self, path: &str, body: &Value) -> Response {
        let answer = post(&self.codexd.url(path), body);
        let path = path
            .split('/')
            .map(|part| if part.contains('-') { ":id" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        let failure = answer.json();
        let why = format!(
            "{} {}",
            failure["error"].as_str().unwrap_or_default(),
            failure["message"].as_str().unwrap_or_default()
        );
        writeln!(self.calls, "POST {path} {} {}", answer.status, why.trim()).unwrap();
        answer
    }

    fn report(mut self) -> String {
        self.codexd.hear_all();
        gapless(self.codexd.log());
        let mut types: Vec<&str> = Vec::new();
        for event in self.codexd.log() {
            let kind = event["type"].as_str().unwrap();
            if types.last() != Some(&kind) {
                types.push(kind);
            }
        }
        let types = types.join("\n");
        let sessions = self
            .sessions
            .iter()
            .map(|(id, _)| serde_json::to_string_pretty(&self.codexd.session(id)).unwrap());
        let sessions = sessions.collect::<Vec<_>>().join("\n");
        self.neutral(&format!("{}\n{types}\n\n{sessions}\n", self.calls))
    }

    /// Puts names in the place of ids, times and paths.
    fn neutral(&self, text: &str) -> String {
        let mut text = text.replace(self.codexd.bench.cwd.to_str().unwrap(), "CWD");
        for (number, (session, _)) in (1..).zip(&self.sessions) {
            text = text.replace(session, &format!("session-{number}"));
        }
        let mut ids: Vec<String> = Vec::new();
        let mut out = Vec::new();
        for line in text.lines() {
            let mut line = line.to_owned();
            for id in line
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                .map(str::to_owned)
                .collect::<Vec<_>>()
            {
                if is_id(&id) {
                    let known = ids.iter().position(|known| *known == id).unwrap_or_else(|| {
                        ids.push(id.clone());
                        ids.len() - 1
                    });
                    line = line.replace(&id, &format!("ID-{}", known + 1));
                }
            }
            let key = line.split(':').next().unwrap_or_default().to_owned();
            let masked = ["\"childPid\"", "\"createdAt\"", "\"updatedAt\""].contains(&key.trim());
            out.push(if masked && !line.contains("null") { format!("{key}: …") } else { line });
        }
        out.join("\n") + "\n"
    }
}

/// A UUID, or an id of ours.
fn is_id(word: &str) -> bool {
    let uuid = word.len() == 36 && word.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    uuid || (word.starts_with("session-") && word.len() > 16)
}

fn is_delta(method: &str) -> bool {
    method.ends_with("elta")
}

fn is_told(event: &Value) -> bool {
    event["type"].as_str().is_some_and(|kind| kind.starts_with("app-server.") && !is_delta(kind))
}
