//! status-api: how the node is, as JSON and as one page that reads itself out.
//!
//! Reads and shows what conductor and codexd say, and changes nothing. It holds no state but what it heard last, and sleeps
//! when nobody looks. In reading order: `config`, `routes` (every route, and what serves it), `sources` (who is asked),
//! `view` (what of their answers is shown), `page.html`.

mod config;
mod routes;
mod sources;
mod view;

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::config::{LocalUrl, Usage, Values, boolean, help};
use common::{signal, sys, trace};
use conductor::shared::{Failure, end, say};

use config::{Config, FLAGS};

/// How long calls in flight may go on after a signal: above what a source may take.
const STOP_GRACE: Duration = Duration::from_secs(3);

const COMMANDS: &str = "status-api, how a node is

  status-api start             serves until SIGTERM
  status-api config [--json]   shows the settings; the token never
  status-api version
  status-api help

Flags win over variables; an empty variable is an unset one.

";

fn main() -> ExitCode {
    end("status-api", run())
}

fn run() -> Result<(), Failure> {
    let values = Values::read(FLAGS, std::env::args_os().skip(1), |name| std::env::var_os(name))?;
    let command = values.command();
    match command {
        "help" => return say(format_args!("{COMMANDS}{}", help(FLAGS))),
        "" => return Err(Usage("no command".to_string()).into()),
        "start" | "config" | "version" => values.arguments([])?,
        other => return Err(Usage(format!("unknown command `{other}`")).into()),
    };
    if command == "version" {
        return say(format_args!("status-api {}\n", env!("CARGO_PKG_VERSION")));
    }
    let config = Config::read(&values)?;
    match (command, values.need("--json", boolean)?) {
        ("start", _) => start(config),
        (_, true) => say(format_args!("{:#}\n", config.json())),
        (_, false) => say(config.text()),
    }
}

fn start(config: Config) -> Result<(), Failure> {
    signal::end_with_any_thread(&["http", "tunnel", "watch", "source"]);
    sys::share_heap();
    let wanted = config.local_api.clone();
    let address = wanted.address().ok_or_else(|| Failure::new("cannot listen", &wanted))?;
    let cannot_listen = |error| Failure::new(&format!("cannot listen at {wanted}"), &error);
    let listener = TcpListener::bind((address, wanted.port)).map_err(cannot_listen)?;
    let port = listener.local_addr().map_err(cannot_listen)?.port();
    let (stopped, stop) = mpsc::channel();
    signal::on_stop(move |name| {
        let _ = stopped.send(name);
    })
    .map_err(|error| Failure::new("cannot wait for signals", &error))?;
    let server = routes::server(&config);
    let node = Arc::clone(&server.state);
    let running = server.start(listener).map_err(|error| Failure::new("cannot serve", &error))?;
    trace::info(None, format_args!("listening url={}", LocalUrl { port, ..wanted }));
    let name = stop.recv().unwrap_or("no signal thread");
    trace::info(None, format_args!("stopping reason={name}"));
    node.codexd.end_streams();
    running.stop(STOP_GRACE);
    Ok(())
}
