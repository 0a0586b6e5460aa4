//! Messages of the app-server protocol, and what they mean to codexd: JSON to `FromChild`, requests to JSON.
//!
//! Pure: no pipe, no state.

use std::sync::Arc;

use common::Error;
use common::error;
use common::wire::{self, Extent};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::core::{Create, FromChild, StartTurn};
use crate::cut::{self, MAX_WHOLE_BYTES, Whole};
use crate::event::{ApprovalKind, Notice};
use crate::state::{Session, Settings, TurnStatus};

/// The largest detail of an event: what is longer is cut, saying so.
pub const MAX_DETAIL_BYTES: usize = 256 * 1024;

/// The largest detail of a request of the child: some hundreds may wait at once, in memory and in each checkpoint.
pub const MAX_REQUEST_BYTES: usize = 32 * 1024;

/// The most elements of a line: a list of a thousand threads has some 50 000.
pub const MAX_LINE_ELEMENTS: usize = 1_000_000;
/// The longest method or request id; the child's own have 50 bytes at most.
pub const MAX_NAME_BYTES: usize = 256;

const OVERLOADED: i64 = -32001;

/// An error that the child answered with.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// JSON-RPC's.
    pub code: i64,
    /// The only thing by which its errors can be told apart.
    pub message: String,
}

impl RpcError {
    /// Whether the child does not know the method.
    pub fn is_unknown_method(&self) -> bool {
        self.message.contains("unknown variant") || self.message.contains("requires experimentalApi")
    }

    /// Whether the child could not take the request, and did not act on it.
    pub fn is_overloaded(&self) -> bool {
        self.code == OVERLOADED
    }

    /// What a child that was overloaded for too long said.
    pub fn overloaded() -> RpcError {
        RpcError { code: OVERLOADED, message: "Server overloaded; retry later.".to_owned() }
    }

    /// Whether another turn runs than the one that was named, or none.
    pub fn is_other_turn(&self) -> bool {
        ["expected active turn id", "no active turn"].iter().any(|text| self.message.contains(text))
    }

    /// Whether the thread has no turn yet, so that the child cannot list any.
    pub fn is_no_turn_yet(&self) -> bool {
        // "Not loaded" it says of a thread that it never stored; one that is stored can be asked for, loaded or not.
        let texts = ["not materialized yet", "thread not loaded"];
        texts.iter().any(|text| self.message.contains(text)) || self.is_unknown_thread()
    }

    /// Whether the child does not know the thread that it was told to load.
    pub fn is_unknown_thread(&self) -> bool {
        let texts = ["no rollout found", "invalid session id", "invalid thread id", "thread not found"];
        texts.iter().any(|text| self.message.contains(text)) || self.is_empty_thread()
    }

    /// Whether the thread's file holds nothing: the child was killed between making it and writing its first line.
    pub fn is_empty_thread(&self) -> bool {
        let newest = self.message.contains("rollout at ") && self.message.contains(".jsonl is empty");
        newest || self.message.contains("empty session file")
    }

    /// The error for the caller whose request the child refused.
    pub fn into_error(self, what: &str) -> Error {
        Error::new(error::APP_SERVER_ERROR, format!("app-server refused {what}: {}", self.message))
            .details(json!({ "code": self.code, "message": self.message }))
    }
}

/// The error for a caller who needs a child that is not there.
pub fn unavailable(what: &str) -> Error {
    Error::new(error::APP_SERVER_UNAVAILABLE, format!("app-server {what}.")).header("Retry-After", "2")
}

/// The error for a caller for whom there was no room among the requests under way.
pub fn full() -> Error {
    let message = "app-server has as many requests under way as it may have, and none ended in time.";
    Error::new(error::OVERLOADED, message).header("Retry-After", "2")
}

/// The error for a caller whose key belongs to a request of which nobody knows yet what became.
pub fn unknown_yet() -> Error {
    let message = "What became of the first request with this Idempotency-Key is not known yet.";
    Error::new(error::APP_SERVER_TIMEOUT, message).header("Retry-After", "2")
}

/// A method and its parameters.
pub type Request = (&'static str, Map<String, Value>);

/// A request as the child reads it.
pub fn request(id: u64, method: &str, params: Map<String, Value>) -> Value {
    json!({ "id": id, "method": method, "params": params })
}

/// The refusal of a request that codexd does not know. It must be answered, or the turn hangs.
pub fn refusal(id: &Value, method: &str) -> Value {
    json!({ "id": id, "error": { "code": -32601, "message": format!("codexd does not handle {method}") } })
}

/// The first request.
pub fn initialize(version: &str) -> Request {
    let client = json!({ "name": "codexd", "title": "codexd", "version": version });
    ("initialize", object([("clientInfo", client), ("capabilities", json!({ "experimentalApi": true }))]))
}

/// Says that the handshake is done.
pub fn initialized() -> Value {
    json!({ "method": "initialized" })
}

/// Asks whether the configuration was loaded.
pub fn config_read() -> Request {
    ("config/read", Map::new())
}

/// Asks whether somebody is logged in.
pub fn account_read() -> Request {
    ("account/read", Map::new())
}

/// Whether a login is wanted and missing; a provider that wants none lacks none.
pub fn login_required(answer: &Value) -> bool {
    answer["account"].is_null() && answer["requiresOpenaiAuth"] == true
}

/// The version of the CLI in `codexd/0.169.0 (…)`.
pub fn version(user_agent: &str) -> Option<String> {
    let version = user_agent.split_once('/')?.1;
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    (version[..end].split('.').filter(|part| !part.is_empty()).count() == 3)
        .then(|| version[..end].to_owned())
}

/// The oldest CLI that is taken: before it, ids of turns collide.
pub const OLDEST: &str = "0.101.0";
/// The versions that the tests run; those between are taken, too.
pub const TESTED: [&str; 3] = ["0.107.0", "0.116.0", "0.169.0"];
/// The oldest one that needs nothing worked around.
pub const SOUND: &str = "0.115.0";
/// The oldest one whose history does not call a turn completed that was killed.
pub const HONEST_HISTORY: &str = "0.114.0";

/// Whether a version is below another.
pub fn is_below(version: &str, other: &str) -> bool {
    let parts =
        |version: &str| version.split('.').map(|part| part.parse().unwrap_or(u64::MAX)).collect::<Vec<_>>();
    parts(version) < parts(other)
}

/// Asks for the list of models.
pub fn models() -> Request {
    ("model/list", Map::new())
}

/// What a request of the child is about, if it is one that somebody can answer.
pub fn approval_kind(method: &str) -> Option<ApprovalKind> {
    match method {
        "item/commandExecution/requestApproval" => Some(ApprovalKind::Command),
        "item/fileChange/requestApproval" => Some(ApprovalKind::FileChange),
        "item/tool/requestUserInput" => Some(ApprovalKind::Question),
        _ => None,
    }
}

/// The answer to a request of the child.
pub fn response(id: &Value, result: Result<Value, String>) -> Value {
    match result {
        Ok(result) => json!({ "id": id, "result": result }),
        Err(message) => json!({ "id": id, "error": { "code": -32000, "message": message } }),
    }
}

/// The answer when nobody answers: the turn goes on without it.
pub fn declined(id: &Value, kind: ApprovalKind) -> Value {
    response(
        id,
        match kind {
            ApprovalKind::Question => Err("nobody answered in time".to_owned()),
            ApprovalKind::Command | ApprovalKind::FileChange => Ok(json!({ "decision": "decline" })),
        },
    )
}

/// Answers to questions as the child takes them, from texts, lists of texts, or its own objects.
///
/// # Errors
/// The id of the question that is answered with something else.
pub fn answers(given: &Map<String, Value>) -> Result<Value, String> {
    let texts = |list: &Vec<Value>| list.iter().all(Value::is_string);
    let mut answers = Map::new();
    for (id, answer) in given {
        let answer = match answer {
            Value::String(text) => json!({ "answers": [text] }),
            Value::Array(list) if texts(list) => json!({ "answers": list }),
            Value::Object(own) if own.get("answers").and_then(Value::as_array).is_some_and(texts) => {
                answer.clone()
            }
            _ => return Err(id.clone()),
        };
        answers.insert(id.clone(), answer);
    }
    Ok(Value::Object(answers))
}

/// Begins a thread for a session to be made.
pub fn thread_start(create: &Create) -> Request {
    ("thread/start", create.params.clone())
}

/// Loads a thread that the caller names for a session to be made.
pub fn thread_adopt(create: &Create, thread_id: &str) -> Request {
    let mut params = create.params.clone();
    params.insert("threadId".into(), thread_id.into());
    params.insert("excludeTurns".into(), true.into());
    ("thread/resume", params)
}

/// Loads a session's thread in a new child. What it may do is restated: the child would fall back to its defaults,
/// which may allow more.
pub fn thread_resume(session: &Session) -> Request {
    let mut params = restated(session);
    params.insert("threadId".into(), session.thread_id.clone().into());
    params.insert("excludeTurns".into(), true.into());
    ("thread/resume", params)
}

/// Begins a thread anew for a session whose thread the child never stored, since it had no turn.
pub fn thread_restart(session: &Session) -> Request {
    ("thread/start", restated(session))
}

/// Starts a turn.
pub fn turn_start(session: &Session, client_turn_id: &str, turn: &StartTurn) -> Request {
    let mut params = turn.params.clone();
    params.insert("threadId".into(), session.thread_id.clone().into());
    params.insert("input".into(), turn.input.clone());
    params.insert("clientUserMessageId".into(), client_turn_id.into());
    ("turn/start", params)
}

/// Puts more input into a running turn.
pub fn turn_steer(session: &Session, turn_id: &str, input: &Value) -> Request {
    let thread_id = Value::from(session.thread_id.clone());
    (
        "turn/steer",
        object([("threadId", thread_id), ("expectedTurnId", turn_id.into()), ("input", input.clone())]),
    )
}

/// Ends a running turn.
pub fn turn_interrupt(session: &Session, turn_id: &str) -> Request {
    let thread_id = Value::from(session.thread_id.clone());
    ("turn/interrupt", object([("threadId", thread_id), ("turnId", turn_id.into())]))
}

/// Asks for the newest turn of a thread.
pub fn newest_turn(session: &Session) -> Request {
    let thread_id = Value::from(session.thread_id.clone());
    ("thread/turns/list", object([("threadId", thread_id), ("limit", 1.into())]))
}

/// Asks for a whole thread: the way to its newest turn where there is no list of turns.
pub fn whole_thread(session: &Session) -> Request {
    ("thread/read", object([("threadId", session.thread_id.clone().into()), ("includeTurns", true.into())]))
}

/// A turn in the child's history.
#[derive(Debug, PartialEq)]
pub struct PastTurn {
    /// The child's name for it.
    pub id: String,
    /// How it stands.
    pub status: TurnStatus,
    /// What its client called it, where the version keeps that.
    pub client_turn_id: Option<String>,
}

/// The newest turn, out of the answer to either question; `None` if there is none. 0.107.0 says of a turn that was killed
/// with its app-server that it is in progress, though its thread is not active: then nothing runs.
pub fn past_turn(answer: &Value) -> Option<PastTurn> {
    let turn = match answer["data"].as_array() {
        Some(newest_first) => newest_first.first()?,
        None => answer["thread"]["turns"].as_array()?.last()?,
    };
    let thread = answer["thread"]["status"]["type"].as_str();
    let status = match TurnStatus::deserialize(&turn["status"]).unwrap_or_default() {
        TurnStatus::InProgress if thread.is_some_and(|thread| thread != "active") => TurnStatus::Interrupted,
        status => status,
    };
    let messages = turn["items"].as_array().into_iter().flatten();
    let client_turn_id = messages.filter_map(|item| item["clientId"].as_str()).next().map(str::to_owned);
    Some(PastTurn { id: turn["id"].as_str()?.to_owned(), status, client_turn_id })
}

/// What a thread runs with, out of the answer that began or loaded it.
pub fn settings(answer: &Value) -> Settings {
    let text = |key: &str| answer[key].as_str().map(str::to_owned);
    Settings {
        cwd: text("cwd"),
        model: text("model"),
        model_provider: text("modelProvider"),
        service_tier: text("serviceTier"),
        reasoning_effort: text("reasoningEffort"),
        approval_policy: answer["approvalPolicy"].clone(),
        sandbox: answer["sandbox"].clone(),
    }
}

/// The thread that an answer is about.
///
/// # Errors
/// `app_server_error` if it names none.
pub fn thread_id(answer: &Value) -> Result<String, Error> {
    named(answer, "thread")
}

/// The turn that an answer is about.
///
/// # Errors
/// `app_server_error` if it names none.
pub fn turn_id(answer: &Value) -> Result<String, Error> {
    named(answer, "turn")
}

/// What a turn's parameters change for good: the child keeps them for the turns that follow.
pub fn changes(params: &Map<String, Value>) -> Settings {
    let text = |key: &str| params.get(key).and_then(Value::as_str).map(str::to_owned);
    let value = |key: &str| params.get(key).cloned().unwrap_or_default();
    Settings {
        cwd: text("cwd"),
        model: text("model"),
        model_provider: None,
        service_tier: text("serviceTier"),
        reasoning_effort: text("effort"),
        approval_policy: value("approvalPolicy"),
        sandbox: value("sandboxPolicy"),
    }
}

/// Whether a line is one that versions up to 0.114 send beside the notification that says the same: nearly half of all
/// their lines, and nobody asks for them. Such a line always begins with its method.
pub fn is_legacy(line: &[u8]) -> bool {
    line.starts_with(br#"{"method":"codex/event/"#)
}

/// A line that is no JSON-RPC and yet holds some is taken for one that was lost: it may have been the end of a turn.
pub fn torn(line: &[u8]) -> Option<FromChild> {
    let holds = |what: &[u8]| line.windows(what.len()).any(|part| part == what);
    let said = holds(b"\"method\":") && holds(b"\"threadId\":");
    said.then_some(FromChild::LineDropped { bytes: line.len() as u64 })
}

/// A line of the child, as far as it is JSON-RPC; `None` if it is not. One that is nested too deep, has too many elements
/// or too long a name for what it is about is dropped like one that is too long.
pub fn parse(line: &[u8]) -> Option<FromChild> {
    let dropped = Some(FromChild::LineDropped { bytes: line.len() as u64 });
    let Extent { depth, elements } = wire::extent(line);
    if depth > wire::MAX_DEPTH || elements > MAX_LINE_ELEMENTS {
        return dropped;
    }
    let Ok(Value::Object(mut message)) = serde_json::from_slice(line) else { return None };
    let method = match message.remove("method") {
        Some(Value::String(method)) if method.len() > MAX_NAME_BYTES => return dropped,
        Some(Value::String(method)) => method,
        Some(_) => return None,
        None => return answer(message, line.len()),
    };
    let params = match message.remove("params") {
        Some(Value::Object(params)) => params,
        _ => Map::new(),
    };
    match message.remove("id") {
        Some(id) if id.to_string().len() > MAX_NAME_BYTES => dropped,
        Some(id) if !id.is_null() => Some(FromChild::Asked {
            id,
            notice: Box::new(notice(method, params, line.len(), MAX_REQUEST_BYTES)),
        }),
        _ => Some(FromChild::Notice(Box::new(notice(method, params, line.len(), MAX_DETAIL_BYTES)))),
    }
}

fn notice(method: String, params: Map<String, Value>, bytes: usize, max: usize) -> Notice {
    // Ids first: the cut keeps what it can, and the state needs these.
    let mut notice = Notice::new(method, params);
    if notice.method == "item/completed" && bytes > max && bytes <= MAX_WHOLE_BYTES {
        notice.whole = Some(Arc::new(Whole::of(&notice.detail)));
    }
    notice.detail = cut::object(notice.detail, bytes, max);
    notice.bytes = bytes.min(max);
    if let Some(whole) = &notice.whole {
        notice.detail.insert("whole".into(), whole.sha1.clone().into());
        notice.bytes += whole.text.len();
    }
    notice
}

fn answer(mut message: Map<String, Value>, bytes: usize) -> Option<FromChild> {
    let rpc = message.get("id").and_then(Value::as_u64)?; // codexd's own ids are numbers
    let result = match (message.remove("result"), message.remove("error")) {
        (_, Some(error)) => Err(RpcError {
            code: error["code"].as_i64().unwrap_or(0),
            message: error["message"].as_str().unwrap_or("no message").chars().take(4096).collect(),
        }),
        (Some(mut result), None) => {
            shorten(&mut result);
            if let Value::Object(whole) = result {
                result = Value::Object(cut::object(whole, bytes, MAX_DETAIL_BYTES));
            }
            Ok(result)
        }
        (None, None) => return None,
    };
    Some(FromChild::Answer { rpc, result })
}

/// Leaves of lists of turns what is ever looked at: who the newest is. Old versions send all of them, asked or not.
fn shorten(result: &mut Value) {
    let newest = |turns: &mut Vec<Value>, keep: std::ops::Range<usize>| {
        *turns = turns.drain(keep).collect();
        for turn in turns.iter_mut().filter_map(Value::as_object_mut) {
            let items = turn.get("items").and_then(Value::as_array).into_iter().flatten();
            let ids: Vec<_> = items.map(|item| json!({ "clientId": item["clientId"] })).collect();
            turn.insert("items".into(), ids.into());
        }
    };
    if let Some(Value::Array(oldest_first)) =
        result.get_mut("thread").and_then(|thread| thread.get_mut("turns"))
    {
        let len = oldest_first.len();
        newest(oldest_first, len.saturating_sub(1)..len);
    }
    let lists_turns = result["data"][0].get("items").is_some();
    if let (true, Some(Value::Array(newest_first))) = (lists_turns, result.get_mut("data")) {
        let len = newest_first.len();
        newest(newest_first, 0..len.min(1));
    }
}

fn named(answer: &Value, what: &str) -> Result<String, Error> {
    let id = answer[what]["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| Error::new(error::APP_SERVER_ERROR, format!("app-server answered without a {what} id.")))
}

fn restated(session: &Session) -> Map<String, Value> {
    let settings = &session.settings;
    let mut params = session.origin.clone();
    let texts = [
        ("cwd", &settings.cwd),
        ("model", &settings.model),
        ("modelProvider", &settings.model_provider),
        ("serviceTier", &settings.service_tier),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            params.insert(key.into(), text.clone().into());
        }
    }
    if !settings.approval_policy.is_null() {
        params.insert("approvalPolicy".into(), settings.approval_policy.clone());
    }
    if let Some(mode) = sandbox_mode(&settings.sandbox) {
        params.insert("sandbox".into(), mode.into());
    }
    params
}

/// The word for a sandbox in requests; answers have an object.
fn sandbox_mode(sandbox: &Value) -> Option<&'static str> {
    match sandbox["type"].as_str()? {
        "readOnly" => Some("read-only"),
        "workspaceWrite" => Some("workspace-write"),
        "dangerFullAccess" => Some("danger-full-access"),
        _ => None,
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    wire::object_of(fields)
}

#[cfg(test)]
mod tests;
