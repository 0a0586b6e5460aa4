//! Plays a recorded session of the real app-server to whoever is the client now.
//!
//! The client need not ask what the recorded one asked. Requests that move a conversation on (`DRIVING`) are matched
//! with the recording in order; others get the recorded answer where there is one, else a plain one. What the recorded
//! client did in mid-turn (a steer, an interrupt, an answer) is waited for a short while, then the recording goes on
//! without it. Ids are the recorded ones, but for those that the client itself names otherwise.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::out::Out;
use super::{refusal, requests};

/// Requests that move the conversation on.
const DRIVING: &[&str] = &[
    "initialize",
    "thread/start",
    "thread/resume",
    "thread/archive",
    "thread/unarchive",
    "thread/compact/start",
    "turn/start",
    "turn/steer",
    "turn/interrupt",
];
/// Of those, the ones without which there is nothing to go on with.
const NEEDED: &[&str] = &["initialize", "thread/start"];

/// Plays the file until stdin ends; waits so long for what the client may leave out.
pub(super) fn play(file: &Path, patience: Duration) -> ExitCode {
    let lines = match read(file) {
        Ok(lines) => lines,
        Err(why) => {
            let _ = writeln!(io::stderr(), "fake-app-server: {}: {why}", file.display());
            return ExitCode::FAILURE;
        }
    };
    let (sender, inbox) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
            let message = serde_json::from_slice::<Value>(&line).unwrap_or_default();
            if message.is_object() && sender.send(message).is_err() {
                return;
            }
        }
    });
    let (ids, opened) = (HashMap::new(), HashSet::new());
    let player = Player { lines, at: 0, ids, names: Vec::new(), running: 0, opened, out: Out::default() };
    player.run(&inbox, patience);
    ExitCode::SUCCESS
}

struct Line {
    dir: String,
    msg: Value,
}

struct Player {
    lines: Vec<Line>,
    at: usize,
    /// Request ids: the recorded one as text, and the client's.
    ids: HashMap<String, Value>,
    /// What was recorded, and what stands in its place.
    names: Vec<(String, String)>,
    /// Turns that have begun and not ended.
    running: usize,
    /// Threads that have begun here: nobody needs to resume them.
    opened: HashSet<String>,
    out: Out,
}

fn read(file: &Path) -> Result<Vec<Line>, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let line = |text: &str| {
        let mut line: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Line { dir: line["dir"].as_str().unwrap_or_default().to_owned(), msg: line["msg"].take() })
    };
    text.lines().map(line).collect()
}

impl Player {
    fn run(mut self, inbox: &Receiver<Value>, patience: Duration) {
        loop {
            self.speak();
            let wait = if self.is_optional() { patience } else { Duration::MAX };
            match inbox.recv_timeout(wait) {
                Ok(message) => self.hear(&message),
                Err(RecvTimeoutError::Timeout) => self.at += 1,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Says all that comes before the recorded client's next message.
    fn speak(&mut self) {
        while let Some(line) = self.lines.get(self.at) {
            let text = || line.msg.as_str().unwrap_or_default().to_owned();
            match line.dir.as_str() {
                "out" => self.emit(&line.msg.clone()),
                "err" => {
                    let _ = writeln!(io::stderr(), "{}", text());
                }
                "note" if text().contains("SIGKILL") => std::process::abort(),
                "note" => {}
                // Notifications, broken lines and questions of the client: nothing depends on them.
                _ if line.msg["id"].is_null() || self.is_question(line) => {}
                _ => return,
            }
            self.at += 1;
        }
    }

    fn is_question(&self, line: &Line) -> bool {
        line.msg["method"].as_str().is_some_and(|method| !DRIVING.contains(&method))
    }

    /// Whether the recording can go on without what it waits for.
    fn is_optional(&self) -> bool {
        let Some(line) = self.lines.get(self.at) else { return false };
        let method = line.msg["method"].as_str().unwrap_or_default();
        match method {
            // In mid-turn it is a steer in disguise, which a careful client never sends.
            "turn/start" => self.running > 0,
            "thread/resume" => {
                line.msg["params"]["threadId"].as_str().is_some_and(|id| self.opened.contains(id))
            }
            _ => !NEEDED.contains(&method),
        }
    }

    fn emit(&mut self, message: &Value) {
        let mut message = message.clone();
        match message["method"].as_str() {
            Some("thread/started") => {
                self.opened.extend(message["params"]["thread"]["id"].as_str().map(str::to_owned));
            }
            Some("turn/started") => self.running += 1,
            Some("turn/completed") => self.running = self.running.saturating_sub(1),
            Some(_) => {}
            None => match self.ids.remove(&message["id"].to_string()) {
                Some(id) => message["id"] = id,
                None => return, // nobody asked
            },
        }
        let mut text = message.to_string();
        for (recorded, now) in &self.names {
            text = text.replace(recorded, now);
        }
        self.out.raw(&text);
    }

    fn hear(&mut self, message: &Value) {
        let Some(method) = message["method"].as_str() else {
            // An answer: whatever it says, the recording knows only one.
            if self.lines.get(self.at).is_some_and(|line| line.msg.get("method").is_none()) {
                self.at += 1;
            }
            return;
        };
        let (id, params) = (&message["id"], &message["params"]);
        if id.is_null() {
            return;
        }
        if !DRIVING.contains(&method) {
            return self.answer_question(id, method, params);
        }
        match self.find(method, params) {
            Some(found) => {
                let recorded = self.lines[found].msg.clone();
                self.ids.insert(recorded["id"].to_string(), id.clone());
                for key in ["threadId", "turnId", "expectedTurnId", "cwd"] {
                    self.rename(&recorded["params"][key], &params[key]);
                }
                self.at = found + 1;
            }
            None => self.out.refuse(id, &refusal(format!("the recording holds no further {method}"))),
        }
    }

    /// Where the recording has this request next: with the same parameters, else for the same thread, else any.
    fn find(&self, method: &str, params: &Value) -> Option<usize> {
        let mut all = self.recorded(method, self.at);
        if let Some(same) = all.iter().find(|at| self.lines[**at].msg["params"] == *params) {
            return Some(*same);
        }
        if method == "initialize" {
            all.retain(|at| self.answer_to(*at).is_some_and(|answer| answer.get("result").is_some()));
        }
        let same = all.iter().find(|at| self.lines[**at].msg["params"]["threadId"] == params["threadId"]);
        same.or(all.first()).copied()
    }

    fn recorded(&self, method: &str, from: usize) -> Vec<usize> {
        let all = self.lines.iter().enumerate().skip(from);
        all.filter(|(_, line)| line.dir == "in" && line.msg["method"] == method).map(|(at, _)| at).collect()
    }

    fn answer_to(&self, request: usize) -> Option<&Value> {
        let id = &self.lines[request].msg["id"];
        let after = self.lines.iter().skip(request + 1).map(|line| &line.msg);
        after.filter(|msg| msg.get("method").is_none()).find(|msg| msg["id"] == *id)
    }

    fn rename(&mut self, recorded: &Value, now: &Value) {
        if let (Some(recorded), Some(now)) = (recorded.as_str(), now.as_str())
            && recorded != now
        {
            self.names.push((recorded.to_owned(), now.to_owned()));
        }
    }

    fn answer_question(&mut self, id: &Value, method: &str, params: &Value) {
        let recorded = self.recorded(method, 0);
        let same = recorded.iter().find(|at| self.lines[**at].msg["params"] == *params);
        let recorded = same.or(recorded.first()).copied();
        if let Some(at) = recorded
            && let Some(mut answer) = self.answer_to(at).cloned()
        {
            self.rename(&self.lines[at].msg["params"]["threadId"].clone(), &params["threadId"]);
            let key = answer["id"].take();
            answer["id"] = key.clone();
            self.ids.insert(key.to_string(), id.clone());
            return self.emit(&answer);
        }
        let result = match method {
            "account/read" => {
                json!({"account": null, "userId": null, "requiresOpenaiAuth": false, "workspaceRouting": null})
            }
            "config/read" => {
                let config = json!({
                    "model": "gpt-5.5", "model_provider": "mock", "approval_policy": "never", "sandbox_mode": "read-only",
                });
                json!({"config": config, "origins": {}})
            }
            "thread/name/set" => json!({}),
            "thread/turns/list" | "thread/loaded/list" | "model/list" => {
                json!({"data": [], "nextCursor": null})
            }
            _ => return self.out.refuse(id, &requests::unknown(method)),
        };
        self.out.answer(id, &result);
    }
}
