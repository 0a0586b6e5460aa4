//! The command line: `start`, `config`, `status`, `version`, `help`.
//!
//! Owns what is printed; `command` owns how. Knows nothing of routes.

use std::fmt::Display;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use common::config::{self, EXIT_FAILED, EXIT_UNAVAILABLE, LocalUrl, Usage, Values};
use common::{signal, sys, trace};
use serde_json::Value;

use crate::command::{self, Failure, say};
use crate::config::{Config, FLAGS};
use crate::core::Input;
use crate::daemon::Daemon;
use crate::upstream::{self, Deadlines};

/// How long `status` waits for a daemon on this machine.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

const COMMANDS: &str = "conductor, the front door of a node

  conductor start             serves until SIGTERM
  conductor config [--json]   shows the settings; the token never
  conductor status [--json]   asks the running conductor
  conductor version
  conductor help

Flags win over variables; an empty variable is an unset one.

";

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    command::end("conductor", run())
}

fn run() -> Result<(), Failure> {
    let values = Values::read(FLAGS, std::env::args_os().skip(1), |name| std::env::var_os(name))?;
    let json = values.need("--json", config::boolean)?;
    match values.command() {
        "help" => say(format_args!("{COMMANDS}{}", config::help(FLAGS))),
        "" => Err(Usage("no command".to_string()).into()),
        "version" => {
            values.arguments([])?;
            say(format_args!("conductor {}\n", env!("CARGO_PKG_VERSION")))
        }
        "config" => {
            values.arguments([])?;
            let config = Config::read(&values)?;
            if json { say(format_args!("{:#}\n", config.json())) } else { say(config.text()) }
        }
        "status" => {
            values.arguments([])?;
            status(&local_api(&Config::read(&values)?)?, json)
        }
        "start" => {
            values.arguments([])?;
            start(Config::read(&values)?)
        }
        other => Err(Usage(format!("unknown command `{other}`")).into()),
    }
}

fn start(config: Config) -> Result<(), Failure> {
    signal::end_with_any_thread(&["http", "tunnel", "watch", "firefox"]);
    sys::share_heap();
    let failed = Failure::new;
    let wanted = local_api(&config)?;
    for warning in config.warnings() {
        trace::warn(None, format_args!("{warning}"));
    }
    let address = wanted.address().ok_or_else(|| failed("cannot listen", &wanted))?;
    let cannot_listen = |error| failed(&format!("cannot listen at {wanted}"), &error);
    let listener = TcpListener::bind((address, wanted.port)).map_err(cannot_listen)?;
    let daemon = Daemon::start(config, listener, Deadlines::default())
        .map_err(|message| Failure(EXIT_FAILED, message))?;
    let (calls, node) = (daemon.calls.clone(), daemon.node.clone());
    signal::on_stop(move |name| {
        trace::info(None, format_args!("stopping reason={name}"));
        node.host.stop(); // what its commands came to is written down, if it comes in time
        let _ = calls.send(Input::Stop(name));
    })
    .map_err(|error| failed("cannot wait for signals", &error))?;
    daemon.run().map_err(|message| Failure(EXIT_FAILED, message))
}

fn status(local_api: &LocalUrl, json: bool) -> Result<(), Failure> {
    let url = format!("{local_api}/v1/runtime");
    let absent =
        |error: &dyn Display| Failure(EXIT_UNAVAILABLE, format!("no conductor at {local_api}: {error}"));
    let request = upstream::agent().get(&url).config().timeout_global(Some(STATUS_TIMEOUT)).build();
    let mut response = request.call().map_err(|error| absent(&error))?;
    let text = response.body_mut().read_to_string().map_err(|error| absent(&error))?;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    let snapshot = &answer["data"];
    if !snapshot.is_object() {
        let message = format!("{url} answered HTTP {} and no snapshot", response.status());
        return Err(Failure(EXIT_FAILED, message));
    }
    if json { say(format_args!("{snapshot:#}\n")) } else { say(status_text(snapshot)) }
}

/// A snapshot for people, a fact a line.
fn status_text(snapshot: &Value) -> String {
    let facts = [
        ("identity", "/identity"),
        ("lease_state", "/daemon/leaseState"),
        ("version", "/runtime/version"),
        ("pid", "/runtime/pid"),
        ("started_at", "/runtime/startedAt"),
        ("local_api_base", "/controlApi/localApiBase"),
        ("codexd_local_api_base", "/codexd/localApiBase"),
    ];
    let mut lines = String::new();
    for (name, pointer) in facts {
        let value = snapshot.pointer(pointer).filter(|value| !value.is_null());
        let shown = match value {
            None => "not-configured".to_string(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        lines.push_str(&format!("{name}: {shown}\n"));
    }
    for warning in snapshot["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push_str(&format!("warning: {warning}\n"));
    }
    lines
}

fn local_api(config: &Config) -> Result<LocalUrl, Usage> {
    let missing = || Usage("--local-api (BAA_CONDUCTOR_LOCAL_API) is required".to_string());
    config.local_api.clone().ok_or_else(missing)
}
