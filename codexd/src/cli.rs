//! The command line of codexd.

use std::io::{self, Write};
use std::sync::Arc;

use common::child::is_alive;
use common::config::{self, EXIT_FAILED, EXIT_USAGE, Usage, Values};
use common::log::Feed;
use serde_json::{Map, Value};

use crate::config::{Config, FLAGS};
use crate::core::{STATUS_SESSIONS, Snapshot};
use crate::documents::{self, Paths};
use crate::state::ChildStatus;
use crate::transcript::Transcripts;
use crate::{api, daemon, smoke};

const USAGE: &str = "\
codexd — the only place where Codex runs

Usage: codexd COMMAND [OPTIONS]

Commands:
  start    run the daemon
  status   what the state directory says, daemon running or not
  config   the settings as they are read
  smoke    one turn on a throw-away codexd of its own, a line a check
  version  the version
  help     this text

Flags win over variables; an empty variable is an unset one.

";

/// Runs the command that the process was given, and says the exit code.
pub fn run() -> u8 {
    let args = std::env::args_os().skip(1);
    match Values::read(FLAGS, args, |name| std::env::var_os(name))
        .map_err(Failure::from)
        .and_then(|values| command(&values))
    {
        Ok(()) => 0,
        Err(Failure { code, message }) => {
            let _ = writeln!(io::stderr(), "codexd: {message}");
            code
        }
    }
}

struct Failure {
    code: u8,
    message: String,
}

impl From<Usage> for Failure {
    fn from(usage: Usage) -> Failure {
        Failure { code: EXIT_USAGE, message: format!("{usage}; see `codexd help`") }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure { code: EXIT_FAILED, message }
    }
}

fn command(values: &Values) -> Result<(), Failure> {
    if values.command() != "help" {
        let [] = values.arguments([])?;
    }
    match values.command() {
        "start" => Ok(daemon::run(&Config::read(values)?)?),
        "status" => status(&Config::read(values)?),
        "config" => print_config(&Config::read(values)?),
        "smoke" => Ok(smoke::run(&Config::read(values)?)?),
        "version" => print(concat!("codexd ", env!("CARGO_PKG_VERSION"), "\n")),
        "" => Err(Usage("no command".to_owned()).into()),
        "help" => print(&format!("{USAGE}{}", config::help(FLAGS))),
        other => Err(Usage(format!("unknown command `{other}`")).into()),
    }
}

fn print_config(config: &Config) -> Result<(), Failure> {
    if config.json {
        let rows = config.rows().into_iter().map(|(key, value)| (key.to_owned(), value));
        return print_json(&Value::Object(rows.collect::<Map<_, _>>()));
    }
    let lines: String =
        config.rows().iter().map(|(key, value)| format!("{key}: {}\n", plain(value))).collect();
    print(&lines)
}

/// The daemon's own replay, read-only: what an HTTP answer has shown, this shows, too.
fn status(config: &Config) -> Result<(), Failure> {
    let paths = daemon::paths(config);
    let snapshot = snapshot(config, &paths).map_err(|error| format!("{}: {error}", paths.state.display()))?;
    if config.json {
        return print_json(&snapshot);
    }
    print(&format!("state: {}\n{}", paths.state.display(), summary(&snapshot)))
}

fn snapshot(config: &Config, paths: &Paths) -> io::Result<Value> {
    // A daemon at work may close a file between our look at the folder and our opening it; then it is read again.
    const TRIES: usize = 5;
    let mut tries = 0;
    let (state, feed) = loop {
        tries += 1;
        match documents::replay(paths).and_then(|state| Ok((state, Feed::open(&paths.logs)?))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
            other => break other?,
        }
    };
    let mut snapshot = Snapshot::new(&state, STATUS_SESSIONS);
    let (daemon, child) = (&mut snapshot.daemon, &mut snapshot.child);
    daemon.started &= daemon.pid.is_some_and(|pid| is_alive(pid, &daemon.process_mark));
    let child_lives =
        child.pid.zip(child.process_mark.as_deref()).is_none_or(|(pid, mark)| is_alive(pid, mark));
    if !daemon.started || !child_lives {
        // Killed, or without room on its disk, it could not write down that its child went with it.
        (child.pid, child.status) = (None, ChildStatus::Stopped);
    }
    let mut place = daemon::place(config);
    if let Ok(text) = std::fs::read(paths.state("identity.json")) {
        let identity: Value = serde_json::from_slice(&text).unwrap_or_default();
        let text = |key: &str| identity[key].as_str().unwrap_or_default().to_owned();
        (place.daemon_id, place.node_id, place.repo_root) =
            (text("daemonId"), text("nodeId"), text("repoRoot"));
    }
    let disk = daemon::disk(config, Arc::new(Transcripts::look(&paths.state)?));
    api::snapshot_view(&snapshot, &place, &feed, &disk).map_err(io::Error::other)
}

fn summary(snapshot: &Value) -> String {
    let (daemon, child, registry) =
        (&snapshot["daemon"], &snapshot["daemon"]["child"], &snapshot["sessionRegistry"]);
    let word = plain;
    if daemon["startedAt"].is_null() {
        return "codexd: never started here\n".to_owned();
    }
    let started = if daemon["started"] == true { "running" } else { "not running" };
    let mut text = format!(
        "codexd: {started}, pid {}, since {}\nchild: {}, pid {}, version {}, restarts {}\n",
        word(&daemon["pid"]),
        word(&daemon["startedAt"]),
        word(&child["status"]),
        word(&child["pid"]),
        word(&child["version"]),
        word(&child["restarts"]),
    );
    if !child["lastError"].is_null() {
        text.push_str(&format!("last error: {}\n", word(&child["lastError"])));
    }
    text.push_str(&format!("sessions: {} ({} active)\n", registry["count"], registry["activeCount"]));
    for session in registry["sessions"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "  {}  {}  {}  last turn {}\n",
            word(&session["sessionId"]),
            word(&session["status"]),
            word(&session["cwd"]),
            word(&session["lastTurnStatus"]),
        ));
    }
    text.push_str(&format!("events: {}\n", snapshot["disk"]["latestSeq"]));
    text
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // `codexd status | head` is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("stdout: {error}").into()),
        _ => Ok(()),
    }
}
