//! Messages of the app-server protocol, and what they mean to codexd: JSON to `FromChild`, requests to JSON.
//!
//! Pure: no pipe, no state.

use common::Error;
use common::error;
use common::wire::{self, Extent};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::core::{Create, FromChild, StartTurn};
use crate::cut;
use crate::event::Notice;
use crate::state::{Session, Settings, TurnStatus};

/// The largest detail of an event: what is longer is cut, saying so.
pub const MAX_DETAIL_BYTES: usize = 256 * 1024;

/// The most elements of a line: a list of a thousand threads has some 50 000.
pub const MAX_LINE_ELEMENTS: usize = 1_000_000;
/// The longest method or request id; the child's own have 50 bytes at most.
pub const MAX_NAME_BYTES: usize = 256;

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

    /// Whether the thread has no turn yet, so that the child cannot list any.
    pub fn is_no_turn_yet(&self) -> bool {
        self.message.contains("not materialized yet") || self.is_unknown_thread()
    }

    /// Whether the child does not know the thread that it was told to load.
    pub fn is_unknown_thread(&self) -> bool {
        let texts = ["no rollout found", "invalid session id", "invalid thread id", "thread not found"];
        texts.iter().any(|text| self.message.contains(text))
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

/// Whether a version is below the oldest that is taken.
pub fn is_too_old(version: &str) -> bool {
    let parts =
        |version: &str| version.split('.').map(|part| part.parse().unwrap_or(u64::MAX)).collect::<Vec<_>>();
    parts(version) < parts(OLDEST)
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

/// The newest turn, out of the answer to either question; `None` if there is none.
pub fn past_turn(answer: &Value) -> Option<PastTurn> {
    let turn = match answer["data"].as_array() {
        Some(newest_first) => newest_first.first()?,
        None => answer["thread"]["turns"].as_array()?.last()?,
    };
    let status = TurnStatus::deserialize(&turn["status"]).unwrap_or_default();
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
        Some(id) if !id.is_null() => {
            let notice = Notice::new(method, params);
            let (method, thread_id, turn_id) = (notice.method, notice.thread_id, notice.turn_id);
            Some(FromChild::Asked { id, method, thread_id, turn_id })
        }
        _ => {
            // Ids first: the cut keeps what it can, and the state needs these.
            let mut notice = Notice::new(method, params);
            notice.detail = cut::object(notice.detail, line.len(), MAX_DETAIL_BYTES);
            notice.bytes = line.len().min(MAX_DETAIL_BYTES);
            Some(FromChild::Notice(Box::new(notice)))
        }
    }
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
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let kinds = [
            (
                r#"{"id":3,"result":{"thread":{"id":"t","turns":[{"id":"u"},{"id":"v","items":[{"clientId":"c","text":"x"}]}]}}}"#,
                "answer 3 {\"thread\":{\"id\":\"t\",\"turns\":[{\"id\":\"v\",\"items\":[{\"clientId\":\"c\"}]}]}}",
            ),
            (r#"{"id":4,"error":{"code":-32600,"message":"no"}}"#, "error 4 -32600 no"),
            (
                r#"{"method":"turn/started","params":{"threadId":"t","turn":{"id":"u"}},"emittedAtMs":1}"#,
                "notice turn/started t u",
            ),
            (r#"{"method":"item/x","id":0,"params":{"threadId":"t","turnId":"u"}}"#, "asked 0 item/x t u"),
            (r#"{"method":"item/x","id":"a"}"#, "asked \"a\" item/x - -"),
            (r#"{"method":"thread/started","params":{"thread":{"id":"t"}}}"#, "notice thread/started t -"),
            (r#"{"method":"x","params":{"threadId":7}}"#, "notice x - -"),
            ("hello", "no"),
            ("[1]", "no"),
            (r#"{"id":1}"#, "no"),
            (r#"{"method":5}"#, "no"),
            (r#"{"id":"mine","result":1}"#, "no"),
        ];
        for (line, expected) in kinds {
            let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            let found = match parse(line.as_bytes()) {
                None => "no".to_owned(),
                Some(FromChild::Answer { rpc, result: Ok(value) }) => format!("answer {rpc} {value}"),
                Some(FromChild::Answer { rpc, result: Err(e) }) => {
                    format!("error {rpc} {} {}", e.code, e.message)
                }
                Some(FromChild::Notice(n)) => {
                    format!("notice {} {} {}", n.method, dash(&n.thread_id), dash(&n.turn_id))
                }
                Some(FromChild::Asked { id, method, thread_id, turn_id }) => {
                    format!("asked {id} {method} {} {}", dash(&thread_id), dash(&turn_id))
                }
                other => format!("{other:?}"),
            };
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn a_line_that_asks_for_too_much_is_dropped() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let deep = format!("{}{}", "[".repeat(wire::MAX_DEPTH), "]".repeat(wire::MAX_DEPTH));
        let lines = [
            format!("{{\"method\":\"{long}\"}}"),
            format!("{{\"method\":\"x\",\"id\":\"{long}\"}}"),
            format!("{{\"method\":\"x\",\"params\":{{\"a\":{deep}}}}}"),
            format!("{{\"method\":\"x\",\"params\":{{\"a\":[{}0]}}}}", "0,".repeat(MAX_LINE_ELEMENTS)),
        ];
        for line in lines {
            assert!(matches!(parse(line.as_bytes()), Some(FromChild::LineDropped { .. })), "{:.80}", line);
        }
    }

    #[test]
    fn the_end_of_a_turn_survives_the_cut() {
        let items: Vec<_> =
            (0..5000).map(|n| json!({"type": "commandExecution", "id": n, "command": "ls"})).collect();
        let turn = json!({"id": "u", "items": items, "status": "failed", "error": {"message": "m"}});
        let line = json!({"method": "turn/completed", "params": {"threadId": "t", "turn": turn}}).to_string();
        let Some(FromChild::Notice(notice)) = parse(line.as_bytes()) else { panic!() };
        assert!(cut::size(&notice.detail) <= MAX_DETAIL_BYTES + 100 && notice.detail["truncated"] == true);
        // What is written down is what counts.
        let read = Notice::new(notice.method.clone(), notice.detail.clone());
        assert_eq!((read.turn_id.as_deref(), &read.end), (Some("u"), &notice.end));
        assert_eq!(read.end.map(|end| end.status), Some(TurnStatus::Failed));
    }

    #[test]
    fn versions_are_read_from_the_user_agent() {
        let cases = [
            ("codexd/0.169.0 (Debian 12.0.0; x86_64) xterm", Some("0.169.0")),
            ("codexd/0.170.0-alpha.3 (x)", Some("0.170.0")),
            ("codexd/dev", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(version(text).as_deref(), expected, "{text}");
        }
        let old = ["0.100.9", "0.99.0", "0.101.0", "0.169.0", "1.0.0"].map(is_too_old);
        assert_eq!(old, [true, true, false, false, false]);
    }

    #[test]
    fn a_login_is_missing_only_where_one_is_wanted() {
        assert!(login_required(&json!({ "account": null, "requiresOpenaiAuth": true })));
        assert!(!login_required(&json!({ "account": null, "requiresOpenaiAuth": false })));
        assert!(!login_required(&json!({ "account": { "type": "chatgpt" }, "requiresOpenaiAuth": true })));
    }
}
