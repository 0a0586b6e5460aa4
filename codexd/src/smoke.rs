//! `codexd smoke`: one turn on a throw-away codexd of its own, by HTTP like any caller.
//!
//! Owns that codexd, its folder and the model's stand-in. Knows of codexd what callers know.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use common::child::{self, Group, Line, Signal};
use common::config::LocalUrl;
use common::signal;
use serde_json::{Value, json};

use crate::config::Config;

/// Until a program listens; it takes milliseconds.
const LISTENING: Duration = Duration::from_secs(10);
/// Until the child is ready; codexd gives it 10 s.
const READY: Duration = Duration::from_secs(15);
/// For an answer. A model may think, but not for ever.
const ANSWER: Duration = Duration::from_secs(120);
/// For an end; codexd takes 10 s at most.
const END: Duration = Duration::from_secs(12);
/// A line that says where a program listens is short.
const LINE_BYTES: usize = 64 * 1024;
const INPUT: &str = "Say hello in one sentence.";

/// One turn on a throw-away codexd with the configured child; prints a line a check.
///
/// # Errors
/// The first check that fails, which is the last one made.
pub fn run(config: &Config) -> Result<(), String> {
    let folder = Folder::new().map_err(|error| format!("no temporary folder: {error}"))?;
    let mut command = codexd(config, &folder.0).map_err(|error| error.to_string())?;
    let mut stub = None;
    // An app-server of somebody else has a home and a model already.
    if let Some(program) = model_stub().filter(|_| config.external.is_none()) {
        let home = folder.0.join("codex-home");
        command.env("CODEX_HOME", &home).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        let program = Program::start(Command::new(program).arg("--until-stdin-eof").arg("--home").arg(home));
        stub = Some(check("model-stub plays the model", program)?);
    }
    let mut codexd = check("codexd starts", Program::start(&mut command))?;
    // The rest fails then, and goes the way of a failure.
    let group = codexd.group.clone();
    signal::on_stop(move |_| group.signal(Signal::Term)).map_err(|error| error.to_string())?;
    one_turn(&codexd.url, &folder.0, stub.is_some())?;
    check("codexd stops", codexd.end())
}

fn one_turn(base: &LocalUrl, folder: &Path, stub: bool) -> Result<(), String> {
    check("app-server is ready", ready(base))?;
    if !stub {
        let status = data(base, "/v1/codexd/status", None)?;
        let required = &status["snapshot"]["daemon"]["child"]["loginRequired"];
        let why = "there is no model: Codex is not logged in, and no model-stub is beside this program";
        that("Codex is logged in", *required == false, why)?;
    }
    // Nothing of it is to stay in the user's home, and nothing to ask the user.
    let body = json!({ "cwd": folder, "ephemeral": true, "sandbox": "read-only", "approvalPolicy": "never" });
    let created = check("a session is created", data(base, "/v1/codexd/sessions", Some(&body)))?;
    let session = created["session"]["sessionId"].as_str().unwrap_or_default();
    let body = json!({ "sessionId": session, "input": INPUT });
    let stream = check("a turn is accepted", ask(base, "/v1/codexd/turn", "text/event-stream", Some(&body)))?;
    let text = check("it completes", answer(&stream))?;
    that(&format!("the model says: {}", text.trim()), !text.is_empty(), "nothing")?;
    let read = check("the session is read", data(base, &format!("/v1/codexd/sessions/{session}"), None))?;
    let status = &read["session"]["lastTurnStatus"];
    that("its last turn is completed", *status == "completed", status)
}

/// Prints the line of something that holds or does not.
fn that(name: &str, holds: bool, else_why: impl ToString) -> Result<(), String> {
    check(name, if holds { Ok(()) } else { Err(else_why.to_string()) })
}

/// Prints the line of a check.
fn check<T>(name: &str, outcome: Result<T, String>) -> Result<T, String> {
    let mut out = io::stdout();
    let _ = match &outcome {
        Ok(_) => writeln!(out, "ok    {name}"),
        Err(why) => writeln!(out, "FAIL  {name}: {why}"),
    }; // the exit code says it, too
    outcome.map_err(|_| "the smoke failed".to_owned())
}

/// `model-stub` beside this program, or in the `libexec` of the same installation.
fn model_stub() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let folder = program.parent()?;
    let places = ["model-stub", "libexec/model-stub", "../libexec/model-stub"];
    places.iter().map(|place| folder.join(place)).find(|path| path.is_file())
}

fn codexd(config: &Config, folder: &Path) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["start", "--local-api-base", "http://127.0.0.1:0"]);
    command.args(["--log-format", "text"]).env("BAA_LOG", "info"); // its lines are read here
    command.arg("--repo-root").arg(folder);
    command.arg("--state-dir").arg(folder.join("state"));
    command.arg("--logs-dir").arg(folder.join("logs"));
    command.args(["--server-strategy", config.strategy(), "--server-endpoint", &config.server_endpoint]);
    command.arg("--server-cwd").arg(&config.server_cwd);
    command.args(["--server-command", &config.server_command]);
    for arg in &config.server_args {
        command.args(["--server-arg", arg]);
    }
    Ok(command)
}

/// A folder that goes with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        let path = env::temp_dir().join(format!("codexd-smoke-{}", common::random_id()?));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program that listens; it ends with this value.
struct Program {
    process: Child,
    group: Group,
    url: LocalUrl,
    // model-stub ends when this closes, even if we are killed.
    _stdin: ChildStdin,
}

impl Program {
    fn start(command: &mut Command) -> Result<Program, String> {
        let child::Started { process, stdin, stdout, stderr, group } =
            child::start(command).map_err(|error| error.to_string())?;
        let (sender, said) = channel();
        listen(stdout, sender.clone());
        listen(stderr, sender);
        let url = LocalUrl { host: String::new(), port: 0 };
        let mut program = Program { process, group, url, _stdin: stdin };
        let mut last = "it says nothing".to_owned(); // what it complained of, if it ends
        let end = Instant::now() + LISTENING;
        while let Ok(line) = said.recv_timeout(end.saturating_duration_since(Instant::now())) {
            let mut words = line.split(' ').map(|word| word.trim_start_matches("url="));
            if let Some(url) = words.find(|word| word.starts_with("http://")) {
                program.url = LocalUrl::parse(url.trim_end_matches("/v1"))?;
                return Ok(program);
            }
            last = line;
        }
        Err(last)
    }

    fn end(&mut self) -> Result<(), String> {
        self.group.signal(Signal::Term);
        let ended = child::wait_until_gone(self.group.pgid(), END);
        self.group.signal(Signal::Kill);
        match (ended, self.group.reap(&mut self.process)) {
            (true, Ok(status)) if status.success() => Ok(()),
            (true, Ok(status)) => Err(status.to_string()),
            (false, _) => Err(format!("it runs {} s after TERM", END.as_secs())),
            (true, Err(error)) => Err(error.to_string()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Sends the lines of a pipe, which is read to its end whether somebody listens or not.
fn listen(pipe: impl Read + Send + 'static, sender: Sender<String>) {
    let read = move || {
        let _ = child::lines(BufReader::new(pipe), LINE_BYTES, |line| {
            if let Line::Whole(line) = line {
                let _ = sender.send(String::from_utf8_lossy(line).into_owned());
            }
        });
    };
    let _ = thread::Builder::new().name("listen".into()).spawn(read); // without it nothing is said
}

fn ready(base: &LocalUrl) -> Result<(), String> {
    let end = Instant::now() + READY;
    loop {
        match call(base, "/readyz", "*/*", None)? {
            (200, _) => return Ok(()),
            (_, why) if Instant::now() >= end => return Err(why.trim().to_owned()),
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The text of a turn's event stream.
fn answer(stream: &str) -> Result<String, String> {
    let mut text = String::new();
    for line in stream.lines().filter_map(|line| line.strip_prefix("data:")) {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        let detail = &event["detail"];
        match event["type"].as_str() {
            Some("app-server.turn.message.delta") => {
                text.push_str(detail["delta"].as_str().unwrap_or_default());
            }
            Some("app-server.turn.completed") if detail["turn"]["status"] == "completed" => return Ok(text),
            Some("app-server.turn.completed") => return Err(detail["turn"].to_string()),
            _ => {}
        }
    }
    Err("the stream ends before the turn".to_owned())
}

/// The body of an answer, if it is a good one.
fn ask(base: &LocalUrl, path: &str, accept: &str, body: Option<&Value>) -> Result<String, String> {
    match call(base, path, accept, body)? {
        (status, text) if status < 300 => Ok(text),
        (status, text) => Err(format!("HTTP {status} {text}")),
    }
}

/// The `data` of the envelope that answers.
fn data(base: &LocalUrl, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let text = ask(base, path, "application/json", body)?;
    let envelope: Value = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
    Ok(envelope["data"].clone())
}

/// One HTTP/1.0 exchange on a connection of its own, which the end of the answer ends: a POST if there is a body.
fn call(base: &LocalUrl, path: &str, accept: &str, body: Option<&Value>) -> Result<(u16, String), String> {
    let LocalUrl { host, port } = base;
    let (method, body) = body.map_or(("GET", String::new()), |body| ("POST", body.to_string()));
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}:{port}\r\nAccept: {accept}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let exchange = || {
        let mut stream = TcpStream::connect((host.as_str(), *port))?;
        stream.write_all(request.as_bytes())?;
        stream.set_read_timeout(Some(ANSWER))?;
        // A quiet stream still has its comments, so each read comes back in time to look at the clock.
        let (mut answer, mut part, end) = (Vec::new(), [0; 16 * 1024], Instant::now() + ANSWER);
        while Instant::now() < end {
            match stream.read(&mut part)? {
                0 => return Ok(String::from_utf8_lossy(&answer).into_owned()),
                read => answer.extend_from_slice(&part[..read]),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    };
    let text = exchange().map_err(|error: io::Error| format!("{method} {path}: {error}"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("{method} {path}: no answer"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}
