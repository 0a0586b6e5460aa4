//! A stand-in for the model: a loopback server of the Responses API, so that the real CLI runs without a network or a
//! login.
//!
//! Each request says what it wants: the newest user text in it holds the directives of [`script`], the
//! tool outputs after that text say which round it is. All the server remembers is how often a request was repeated
//! (for `cut` and `fail`), and the newest requests for tests to look at. Knows nothing of the app-server.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};

use crate::script::{self, Round, Step};

/// Connections at once; one more is closed unheard. A CLI has one for each running turn.
const MAX_CONNECTIONS: usize = 256;
/// A request's head; the CLI's have under 4 KiB.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// A request's body; it holds the whole conversation, 80 KiB when that is short.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// A client that neither sends nor takes a byte for so long is gone.
const IDLE: Duration = Duration::from_secs(60);
/// A `[[hang]]` ends then, even if the client does not.
const HANG: Duration = Duration::from_secs(3600);
/// The newest requests that are remembered.
const MAX_REMEMBERED: usize = 4096;
/// A plain answer repeats at most so much of the question.
const ECHO_CHARS: usize = 2000;

/// One request that arrived.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Asked {
    /// The thread, by `prompt_cache_key`.
    pub thread: String,
    /// The newest user text.
    pub text: String,
    /// How many tool calls have been answered since that text.
    pub round: usize,
    /// How often the very same was asked before; more than 0 is a retry.
    pub attempt: u32,
    /// The number of items in the conversation.
    pub items: usize,
}

/// A running server; it ends with the process.
pub struct Model {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<VecDeque<Asked>>,
    log: Option<Mutex<File>>,
    connections: AtomicUsize,
}

impl Model {
    /// Serves on a loopback port (0: a free one); with `log`, each request is one JSON line there. Fails if the port
    /// is taken.
    pub fn start(port: u16, log: Option<File>) -> io::Result<Model> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { log: log.map(Mutex::new), ..Shared::default() });
        let for_accept = Arc::clone(&shared);
        thread::Builder::new().name("model".into()).spawn(move || accept(&listener, &for_accept))?;
        Ok(Model { address, shared })
    }

    /// What a provider's `base_url` is set to.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The newest 4096 requests, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).iter().cloned().collect()
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(25)); // out of descriptors: it passes
            continue;
        };
        if shared.connections.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let shared = Arc::clone(shared);
        let serving = thread::Builder::new().name("model-turn".into()).spawn(move || {
            let _ = serve(stream, &shared); // an error is the client's leaving
            shared.connections.fetch_sub(1, Ordering::SeqCst);
        });
        drop(serving);
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let (line, body) = read_request(&mut stream)?;
    if !line.starts_with("POST ") || !line.contains("/responses ") {
        return refuse(&mut stream, 404, "not_found", "only POST /v1/responses is served");
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return refuse(&mut stream, 400, "invalid_json", "the body is not JSON");
    };
    let (mut asked, output) = read_conversation(&body);
    shared.remember(&mut asked);
    let rounds = script::parse(&asked.text);
    let round = rounds.get(asked.round).cloned().unwrap_or_default();
    if let Some((status, times)) = round.fail
        && asked.attempt < times
    {
        let code = if status == 503 { "server_is_overloaded" } else { "server_error" };
        return refuse(&mut stream, status, code, "the script says so");
    }
    if round.hang {
        return hang(&mut stream);
    }
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
    let mut answer = Answer { stream, id: new_id(), items: 0, has_patch_tool: has_patch_tool(&body) };
    answer.round(&asked, &round, output.as_deref())
}

/// The request line and the body.
fn read_request(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let broken = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let read = stream.read(&mut chunk)?;
        if read == 0 || bytes.len() > MAX_HEAD_BYTES {
            return Err(broken("no head"));
        }
        bytes.extend_from_slice(&chunk[..read]);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let length =
        length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value.trim());
    let length: usize = length.last().and_then(|value| value.parse().ok()).unwrap_or(0);
    if length > MAX_BODY_BYTES {
        return Err(broken("too large a body"));
    }
    let mut body = bytes.split_off(end);
    let missing = length.saturating_sub(body.len());
    stream.take(missing as u64).read_to_end(&mut body)?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body))
}

/// Whose turn it is, what it asks for, and what the newest tool call gave.
fn read_conversation(body: &Value) -> (Asked, Option<String>) {
    let empty = Vec::new();
    let input = body["input"].as_array().unwrap_or(&empty);
    let mut asked = Asked {
        thread: text_of(&body["prompt_cache_key"]),
        text: String::new(),
        round: 0,
        attempt: 0,
        items: input.len(),
    };
    let mut output = None;
    for item in input {
        let kind = item["type"].as_str().unwrap_or_default();
        if kind == "message" && item["role"] == "user" {
            let text = content(&item["content"]);
            // What begins so is the CLI's own word: the environment, a turn that was aborted.
            if !text.starts_with('<') {
                (asked.text, asked.round, output) = (text, 0, None);
            }
        } else if kind.ends_with("_call_output") {
            asked.round += 1;
            let text = content(&item["output"]);
            output = Some(text.split_once("Output:\n").map_or(text.clone(), |(_, after)| after.to_owned()));
        }
    }
    (asked, output)
}

/// Whether the CLI offers a tool for patches; versions before 0.125 do not offer it for a model that they do not know.
fn has_patch_tool(body: &Value) -> bool {
    body["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool["name"] == "apply_patch"))
}

/// A text, or the texts of a list of content parts.
fn content(value: &Value) -> String {
    match value {
        Value::Array(parts) => parts.iter().map(|part| text_of(&part["text"])).collect::<Vec<_>>().join("\n"),
        other => text_of(other),
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn refuse(stream: &mut TcpStream, status: u16, code: &str, message: &str) -> io::Result<()> {
    let body = json!({"error": {"code": code, "type": code, "message": message}}).to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Waits until the client has had enough.
fn hang(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(HANG))?;
    stream.read(&mut [0; 1]).map(drop)
}

impl Shared {
    fn remember(&self, asked: &mut Asked) {
        let mut all = lock(&self.asked);
        let same = |other: &&Asked| {
            (&other.thread, other.items, &other.text) == (&asked.thread, asked.items, &asked.text)
        };
        asked.attempt = all.iter().rev().find(same).map_or(0, |before| before.attempt + 1);
        if all.len() == MAX_REMEMBERED {
            all.pop_front();
        }
        all.push_back(asked.clone());
        if let (Some(log), Ok(line)) = (&self.log, serde_json::to_string(asked)) {
            let _ = writeln!(lock(log), "{line}"); // a full disk is not the model's business
        }
    }
}

/// One streamed response.
struct Answer {
    stream: TcpStream,
    id: String,
    items: usize,
    has_patch_tool: bool,
}

impl Answer {
    fn round(&mut self, asked: &Asked, round: &Round, output: Option<&str>) -> io::Result<()> {
        self.event("response.created", json!({"response": {"id": self.id}}))?;
        if asked.attempt < round.cut {
            let id = self.message_begins()?;
            return self.delta(&id, "par"); // and the stream ends here
        }
        for step in &round.steps {
            self.step(step)?;
        }
        if round.is_silent() {
            let answer = match output {
                Some(output) => script::after_tool(output),
                None => format!("You said: {}", script::clip(&asked.text, ECHO_CHARS)),
            };
            self.say(&answer, Duration::ZERO)?;
        }
        let usage = json!({
            "input_tokens": 10, "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 15,
        });
        self.event("response.completed", json!({"response": {"id": self.id, "usage": usage}}))
    }

    fn step(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Say(text, pause) => self.say(text, *pause),
            Step::Big(bytes) => {
                let id = self.next_id("msg");
                self.message_ends(&id, &"x".repeat(*bytes))
            }
            Step::Flood(count, bytes) => {
                let id = self.message_begins()?;
                let delta = "x".repeat(*bytes);
                for _ in 0..*count {
                    self.delta(&id, &delta)?;
                }
                self.message_ends(&id, &delta.repeat(*count))
            }
            Step::Sleep(time) => {
                thread::sleep(*time);
                Ok(())
            }
            Step::Exec(command) => self.call("exec_command", &json!({"cmd": command})),
            Step::Patch(file, line) => {
                let patch = format!("*** Begin Patch\n*** Add File: {file}\n+{line}\n*** End Patch\n");
                if !self.has_patch_tool {
                    // What models did before there was the tool; the CLI takes it for the same.
                    let heredoc = format!("apply_patch <<'EOF'\n{patch}EOF\n");
                    return self.call("exec_command", &json!({"cmd": heredoc}));
                }
                let (id, call) = (self.next_id("ctc"), self.next_id("call"));
                self.done(json!({"type": "custom_tool_call", "id": id, "call_id": call, "name": "apply_patch", "input": patch}))
            }
            Step::Ask(question, choices) => {
                let options = choices.iter().map(|label| json!({"label": label, "description": label}));
                let options = options.collect::<Vec<_>>();
                let question =
                    json!({"id": "q1", "header": "Question", "question": question, "options": options});
                self.call("request_user_input", &json!({"questions": [question]}))
            }
            // The rest is beyond a model; the fake app-server does it.
            _ => Ok(()),
        }
    }

    fn say(&mut self, text: &str, pause: Duration) -> io::Result<()> {
        let id = self.message_begins()?;
        for (at, word) in script::words(text).enumerate() {
            if at > 0 {
                thread::sleep(pause);
            }
            self.delta(&id, word)?;
        }
        self.message_ends(&id, text)
    }

    fn message_begins(&mut self) -> io::Result<String> {
        let id = self.next_id("msg");
        let item = json!({"type": "message", "role": "assistant", "id": id, "content": []});
        self.event("response.output_item.added", json!({"item": item}))?;
        Ok(id)
    }

    fn delta(&mut self, id: &str, delta: &str) -> io::Result<()> {
        self.event("response.output_text.delta", json!({"item_id": id, "delta": delta}))
    }

    fn message_ends(&mut self, id: &str, text: &str) -> io::Result<()> {
        let content = json!([{"type": "output_text", "text": text}]);
        self.done(json!({"type": "message", "role": "assistant", "id": id, "content": content}))
    }

    fn call(&mut self, name: &str, arguments: &Value) -> io::Result<()> {
        let (id, call) = (self.next_id("fc"), self.next_id("call"));
        let arguments = arguments.to_string();
        self.done(
            json!({"type": "function_call", "id": id, "call_id": call, "name": name, "arguments": arguments}),
        )
    }

    fn done(&mut self, item: Value) -> io::Result<()> {
        self.event("response.output_item.done", json!({"item": item}))
    }

    fn event(&mut self, kind: &str, mut data: Value) -> io::Result<()> {
        data["type"] = kind.into();
        self.stream.write_all(format!("event: {kind}\ndata: {data}\n\n").as_bytes())
    }

    fn next_id(&mut self, kind: &str) -> String {
        self.items += 1;
        format!("{kind}_{}_{}", self.id, self.items)
    }
}

/// Never given twice, in this process or another: the CLI keeps the ids in its history.
fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("resp_{}_{}", since.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
