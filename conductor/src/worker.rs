//! Does for runs what the core decides: sessions and turns at codexd, commands of this machine, and the stream of events.
//!
//! Each thing is done by a thread of its own, which tells the core what came of it until the core has written it down: a
//! result is never lost to a full disk. Knows nothing of what comes next.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::document;
use common::engine::STORAGE_RETRY;
use common::log::Seq;
use common::trace;
use serde_json::{Value, json};

use crate::api::Node;
use crate::core::{Call, Input};
use crate::event::Level;
use crate::host::{Caller, Exec};
use crate::scheduler::{MAX_LINE_BYTES, News, Ran, Ticket, TurnEnd, Work, Worked};
use crate::state::{Fault, Spec};
use crate::upstream::Stream;

/// They parse JSON of bounded depth.
const STACK_BYTES: usize = 512 * 1024;
/// What is kept of what a step said or printed, its end.
const MAX_TEXT_BYTES: usize = 64 * 1024;
/// One event of codexd; a cut one has 256 KiB, and codexd's own are smaller than a body.
const MAX_EVENT_BYTES: usize = 20 * 1024 * 1024;
/// Types of events that say something of a run. Most events are pieces of text, and are not even parsed.
const TOLD: [&str; 10] = [
    "stream.hello",
    "stream.gap",
    "app-server.item.completed",
    "app-server.turn.completed",
    "app-server.error",
    "turn.interrupted",
    "turn.settled",
    "turn.refused",
    "approval.requested",
    "approval.resolved",
];

/// The hands of the scheduler.
#[derive(Default)]
pub(crate) struct Workers {
    /// Commands that run, with what ends them.
    commands: HashMap<Seq, Arc<AtomicBool>>,
    following: Option<Arc<Stream>>,
}

impl Workers {
    /// Has something done for a run.
    pub(crate) fn work(&mut self, node: &Arc<Node>, ticket: Ticket, work: Work) {
        let unwanted = Arc::new(AtomicBool::new(false));
        self.commands.retain(|_, unwanted| Arc::strong_count(unwanted) > 1);
        if matches!(work, Work::Exec { .. }) {
            self.commands.insert(ticket.run, unwanted.clone());
        }
        let doing = node.clone();
        let job = move || {
            let worked = done(&doing, ticket.run, work, &unwanted);
            tell(&doing, ticket, worked);
        };
        let builder = thread::Builder::new().name("worker".to_string()).stack_size(STACK_BYTES);
        if let Err(error) = builder.spawn(job) {
            let worked = Box::new(Worked::Unavailable(format!("no thread: {error}")));
            node.tell(Input::Call { id: 0, call: Call::Worked { ticket, worked } });
        }
    }

    /// Has the command of a run end.
    pub(crate) fn kill(&self, run: Seq) {
        if let Some(unwanted) = self.commands.get(&run) {
            unwanted.store(true, Ordering::SeqCst);
        }
    }

    /// Follows codexd's events from behind `after`, or from now on.
    pub(crate) fn follow(&mut self, node: &Arc<Node>, epoch: u64, after: Option<Seq>) {
        self.unfollow();
        let stream = Arc::new(node.codexd.stream());
        self.following = Some(stream.clone());
        let following = node.clone();
        let job = move || {
            let why = listen(&following, &stream, epoch, after);
            following.tell_surely(Input::Heard { epoch, news: News::Gone(why) });
        };
        let builder = thread::Builder::new().name("follow".to_string()).stack_size(STACK_BYTES);
        if let Err(error) = builder.spawn(job) {
            node.tell(Input::Heard { epoch, news: News::Gone(format!("no thread: {error}")) });
        }
    }

    pub(crate) fn unfollow(&mut self) {
        if let Some(stream) = self.following.take() {
            stream.end();
        }
    }
}

/// Tells the core, again and again until that is written down or the process ends.
fn tell(node: &Node, ticket: Ticket, worked: Worked) {
    while node.ask(Call::Worked { ticket, worked: Box::new(worked.clone()) }).is_err() {
        thread::sleep(STORAGE_RETRY);
    }
}

/// Does it, and says what came of it.
fn done(node: &Node, run: Seq, work: Work, unwanted: &AtomicBool) -> Worked {
    match work {
        Work::Open { task_id, run_id, attempt, spec, thread_id } => {
            let metadata = json!({ "task_id": task_id, "run_id": run_id, "attempt": attempt });
            match folder(node, &task_id, spec.cwd.as_deref()) {
                Ok(cwd) => open(node, &run_id, metadata, &spec, &cwd, thread_id),
                Err(fault) => Worked::Failed(fault),
            }
        }
        Work::Turn { session_id, key, input, timeout_ms } => {
            let body = json!({ "sessionId": session_id, "input": input, "timeoutMs": timeout_ms });
            match node.codexd.post("/v1/codexd/turn", &body, Some(&key)) {
                // Not busy, but closed: by somebody else.
                Err(error) if error.code.status == 409 && !is_busy(&error) => Worked::Lost(error.message),
                answer => {
                    asked(answer, |data| Worked::Taken { turn_id: text(&data["turnId"]).unwrap_or_default() })
                }
            }
        }
        Work::Look { turn_id } => asked(node.codexd.get(&format!("/v1/codexd/turns/{turn_id}")), |data| {
            let turn = &data["turn"];
            let status = text(&turn["status"]).unwrap_or_default();
            if matches!(status.as_str(), "accepted" | "inProgress" | "") {
                return Worked::Looked(None);
            }
            Worked::Looked(Some(TurnEnd {
                status,
                text: text(&turn["text"]).map(|text| tail(&text, MAX_TEXT_BYTES).to_owned()),
                usage: Some(turn["usage"].clone()).filter(|usage| !usage.is_null()),
                error: text(&turn["error"]["message"]).or_else(|| text(&turn["error"])),
            }))
        }),
        Work::Close { session_id } => {
            let path = format!("/v1/codexd/sessions/{session_id}/close");
            asked(node.codexd.post(&path, &json!({}), None), |_| Worked::Closed)
        }
        Work::Exec { task_id, cwd, command, timeout } => match folder(node, &task_id, cwd.as_deref()) {
            Ok(cwd) => exec(node, run, command, cwd, crate::config::millis(timeout).max(1), unwanted),
            Err(fault) => Worked::Failed(fault),
        },
    }
}

/// What an answer of codexd comes to.
fn asked(answer: Result<Value, common::Error>, done: impl FnOnce(&Value) -> Worked) -> Worked {
    match answer {
        Ok(data) => done(&data),
        Err(error) => match error.code.status {
            404 | 410 => Worked::Lost(error.message),
            400 | 401 | 403 | 413 | 415 => Worked::Refused(fault(error)),
            500 | 502 => Worked::Failed(fault(error)), // the child's own words
            _ => Worked::Unavailable(error.message),
        },
    }
}

fn fault(error: common::Error) -> Fault {
    Fault { code: error.code.name.to_string(), message: error.message }
}

/// Whether a turn was refused since another one runs.
fn is_busy(error: &common::Error) -> bool {
    error.details.as_ref().is_some_and(|details| details["upstream_details"]["currentTurnId"].is_string())
}

fn open(
    node: &Node,
    run_id: &str,
    metadata: Value,
    spec: &Spec,
    cwd: &Path,
    thread_id: Option<String>,
) -> Worked {
    let mut body = json!({ "purpose": "worker", "metadata": metadata, "cwd": cwd });
    let given =
        [("model", spec.model.clone().map(Value::from)), ("sandbox", spec.sandbox.clone().map(Value::from))];
    for (name, value) in given.into_iter().chain([("approvalPolicy", spec.approval_policy.clone())]) {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    if let Some(thread_id) = thread_id {
        // What was said so far goes on, where the child still has it.
        body["threadId"] = json!(thread_id);
        let answer =
            opened(node.codexd.post("/v1/codexd/sessions", &body, Some(&format!("{run_id}-resumed"))));
        if !matches!(answer, Worked::Lost(_) | Worked::Refused(_)) {
            return answer;
        }
        body["threadId"] = Value::Null;
    }
    opened(node.codexd.post("/v1/codexd/sessions", &body, Some(run_id)))
}

fn opened(answer: Result<Value, common::Error>) -> Worked {
    asked(answer, |data| Worked::Opened {
        session_id: text(&data["session"]["sessionId"]).unwrap_or_default(),
        thread_id: text(&data["session"]["threadId"]),
    })
}

/// Where a task works: where it wants to, or in a folder of its own.
fn folder(node: &Node, task_id: &str, cwd: Option<&str>) -> Result<PathBuf, Fault> {
    if let Some(cwd) = cwd {
        return Ok(PathBuf::from(cwd));
    }
    let folder = node.config.runs_dir.join(task_id);
    document::make_folder(&folder).map(|()| folder.clone()).map_err(|error| {
        let message = format!("{} cannot be made: {error}.", folder.display());
        Fault { code: "FILE_FAILED".into(), message }
    })
}

fn exec(
    node: &Node,
    run: Seq,
    command: String,
    cwd: PathBuf,
    timeout_ms: u64,
    unwanted: &AtomicBool,
) -> Worked {
    let caller = Caller { request_id: &format!("run-{run}"), peer: "scheduler".to_owned() };
    let exec = Exec {
        command,
        cwd: Some(cwd.to_string_lossy().into_owned()),
        timeout_ms: Some(i64::try_from(timeout_ms).unwrap_or(i64::MAX)),
        max_buffer_bytes: None,
    };
    let union = match node.host.exec_until(&caller, &exec, &|| unwanted.load(Ordering::SeqCst)) {
        Ok(union) => union.json(),
        Err(error) => return Worked::Unavailable(error.message),
    };
    let result = &union["result"];
    let output = ["stdout", "stderr"].map(|name| result[name].as_str().unwrap_or_default().trim_end());
    let output = output.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n");
    let code = text(&union["error"]["code"]);
    Worked::Ran(Ran {
        exit_code: result["exitCode"].as_i64().and_then(|code| i32::try_from(code).ok()),
        output: tail(&output, MAX_LINE_BYTES).to_owned(),
        duration_ms: result["durationMs"].as_u64().unwrap_or(0),
        unwanted: unwanted.load(Ordering::SeqCst) && code.as_deref() == Some("EXEC_FAILED"),
        fault: code.map(|code| Fault { code, message: text(&union["error"]["message"]).unwrap_or_default() }),
    })
}

/// Hears codexd until the stream ends; says why it did.
fn listen(node: &Node, stream: &Stream, epoch: u64, after: Option<Seq>) -> String {
    let reader = match stream.open(&node.codexd, after) {
        Ok(reader) => reader,
        Err(error) => return error.message,
    };
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut reader, MAX_EVENT_BYTES as u64).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return "the stream ended".to_owned(),
            Ok(_) if !line.ends_with(b"\n") => return "an event is over its bound".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        let Some(text) = std::str::from_utf8(&line).ok().and_then(|text| text.strip_prefix("data:")) else {
            continue;
        };
        if let Some(news) = news(text.trim())
            && !node.tell_surely(Input::Heard { epoch, news })
        {
            return "conductor stops".to_owned();
        }
    }
}

/// What an event says to a run.
fn news(line: &str) -> Option<News> {
    if !TOLD.iter().any(|kind| line.contains(&format!("\"type\":\"{kind}\""))) {
        return None;
    }
    let event: Value = serde_json::from_str(line).ok()?;
    let (kind, detail) = (event["type"].as_str()?, &event["detail"]);
    let number = |name: &str| event[name].as_u64();
    match kind {
        "stream.hello" => return Some(News::Connected { latest: number("latestSeq")? }),
        "stream.gap" => return Some(News::Gap { to: number("toSeq")? }),
        _ if !TOLD.contains(&kind) => return None, // the text of another event quotes it
        _ => {}
    }
    let turn_over =
        matches!(kind, "app-server.turn.completed" | "turn.interrupted" | "turn.settled" | "turn.refused");
    let line = match kind {
        "app-server.item.completed" => item(&detail["item"]),
        "app-server.error" => text(&detail["error"]["message"]).map(|text| (Level::Warn, text)),
        _ => text(&event["message"])
            .filter(|_| kind != "app-server.turn.completed")
            .map(|text| (Level::Warn, text)),
    };
    Some(News::Told { seq: number("seq")?, session_id: text(&detail["sessionId"])?, line, turn_over })
}

/// A finished item of a turn as a line: what the agent said, what it ran, what it changed.
fn item(item: &Value) -> Option<(Level, String)> {
    match item["type"].as_str()? {
        "agentMessage" => {
            text(&item["text"]).map(|text| (Level::Info, tail(&text, MAX_LINE_BYTES).to_owned()))
        }
        "commandExecution" => {
            let command = text(&item["command"]).unwrap_or_default();
            let end = match item["exitCode"].as_i64() {
                Some(code) => format!("exit code {code}"),
                None => text(&item["status"]).unwrap_or_else(|| "no exit code".to_owned()),
            };
            Some((Level::Info, format!("The agent ran `{command}`: {end}.")))
        }
        "fileChange" => {
            let changes = item["changes"].as_array()?;
            let paths: Vec<&str> = changes.iter().filter_map(|change| change["path"].as_str()).collect();
            let how = text(&item["status"]).unwrap_or_default();
            Some((Level::Info, format!("The agent changed {} ({how}).", paths.join(", "))))
        }
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The end of a text, up to so many bytes.
fn tail(text: &str, bytes: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(bytes))..]
}

impl Node {
    /// Puts something into the core's queue; what finds no room is lost.
    pub(crate) fn tell(&self, input: Input) {
        if let Some(desk) = self.desk.get() {
            desk.tell(input);
        }
    }

    /// The same, waiting for room; false if there is no loop any more.
    fn tell_surely(&self, input: Input) -> bool {
        let told = self.desk.get().is_some_and(|desk| desk.tell_surely(input));
        if !told {
            trace::debug(None, format_args!("nobody hears codexd's events any more"));
        }
        told
    }
}
