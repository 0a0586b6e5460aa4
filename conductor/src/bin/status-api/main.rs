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

use common::cli::{Command, Failure, Program, say};
use common::config::{LocalUrl, Values, boolean};
use common::trace::Level;
use common::{signal, sys, trace};

use config::{Config, FLAGS};

/// How long calls in flight may go on after a signal: above what a source may take.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Everything that status-api can be told.
const PROGRAM: Program = Program {
    name: "status-api",
    about: "how a node is, as JSON and as one page",
    version: env!("CARGO_PKG_VERSION"),
    flags: FLAGS,
    commands: &[
        Command {
            name: "start",
            arguments: &[],
            help: "Runs the daemon until SIGTERM.",
            examples: &[
                "status-api start --conductor-local-api http://127.0.0.1:4317 --codexd-local-api http://127.0.0.1:4319",
            ],
            run: |values| start(Config::read(values)?),
        },
        Command {
            name: "config",
            arguments: &[],
            help: "Shows the settings as they are read; the token never.",
            examples: &["status-api config --json"],
            run: config,
        },
    ],
};

fn main() -> ExitCode {
    PROGRAM.main()
}

fn config(values: &Values) -> Result<(), Failure> {
    let config = Config::read(values)?;
    match values.need("--json", boolean)? {
        true => say(format_args!("{:#}\n", config.json())),
        false => say(config.text()),
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
    let url = LocalUrl { port, ..wanted }.to_string();
    trace::write(Level::Info, None, format_args!("listening"), &[("url", url.into())]);
    let name = stop.recv().unwrap_or("no signal thread");
    trace::write(Level::Info, None, format_args!("stopping"), &[("reason", name.into())]);
    node.codexd.end_streams();
    running.stop(STOP_GRACE);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_has_no_faults() {
        assert_eq!(common::cli::faults(&super::PROGRAM), Vec::<String>::new());
    }
}
