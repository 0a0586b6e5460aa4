//! The command line: what each command does, and what it prints. Knows nothing of routes.

use std::net::TcpListener;
use std::process::ExitCode;

use common::cli::{Command, Failure, Program, say};
use common::client::Client;
use common::config::{EXIT_FAILED, LocalUrl, Usage, Values, boolean};
use common::trace::Level;
use common::{signal, sys, trace};
use serde_json::{Value, json};

use crate::commands;
use crate::config::{self, Config, FLAGS, Token};
use crate::core::Input;
use crate::daemon::Daemon;
use crate::doctor;
use crate::upstream::Deadlines;

/// Everything that conductor can be told.
const PROGRAM: Program = Program {
    name: "conductor",
    about: "the front door of a node on which Codex works",
    version: env!("CARGO_PKG_VERSION"),
    flags: FLAGS,
    commands: &[
        Command {
            name: "start",
            arguments: &[],
            help: "Runs the daemon until SIGTERM.",
            examples: &[
                "conductor start --local-api http://127.0.0.1:4317 --codexd-local-api http://127.0.0.1:4319",
            ],
            run: |values| start(Config::read(values)?),
        },
        Command {
            name: "status",
            arguments: &[],
            help: "Asks the running conductor how the node is.",
            examples: &["conductor status --local-api http://127.0.0.1:4317"],
            run: status,
        },
        Command {
            name: "submit",
            arguments: &["[TEXT]"],
            help: "Has the node do something by itself, and prints the task's id. TEXT is a turn of Codex (- reads it from \
                   stdin), and the commands of --step-exec follow it in their order; without TEXT the task is these commands \
                   alone. Of waiting tasks the one with the highest --task-priority is taken first; without it a task has 0. With --follow it prints what the task says until its end, and exits 0 only if it completed; Ctrl-C \
                   ends the command and leaves the task running, and says how to go on. With --json the task, or with \
                   --follow a line of JSON each and the task at the end.",
            examples: &[
                "conductor submit 'Make the tests pass.' --cwd /src/app --step-exec 'make test' --follow",
                "conductor submit --step-exec 'make nightly' --cwd /src/app --not-before 2026-01-31T04:00:00.000Z",
                "conductor submit - --key night-7 --json",
            ],
            run: commands::submit,
        },
        Command {
            name: "tasks",
            arguments: &[],
            help: "Lists tasks, the newest first.",
            examples: &["conductor tasks", "conductor tasks --status running --json"],
            run: commands::tasks,
        },
        Command {
            name: "logs",
            arguments: &["TASK"],
            help: "Prints what a task's runs wrote; times are UTC. With --follow it goes on to the task's end, and exits 0 only if \
                   the task completed. With --json a line of JSON each, and when it is followed the task at the end.",
            examples: &["conductor logs task-1", "conductor logs task-1 --follow --after 120"],
            run: commands::logs,
        },
        Command {
            name: "cancel",
            arguments: &["TASK"],
            help: "Ends a task: at once if it waits, else what runs of it is ended.",
            examples: &["conductor cancel task-1 --reason 'not needed any more'"],
            run: commands::cancel,
        },
        Command {
            name: "pause",
            arguments: &[],
            help: "Has the node start no more runs; those that run go on.",
            examples: &["conductor pause --reason 'a look around'"],
            run: |values| commands::mode(values, "pause"),
        },
        Command {
            name: "resume",
            arguments: &[],
            help: "Has the node start runs again.",
            examples: &["conductor resume"],
            run: |values| commands::mode(values, "resume"),
        },
        Command {
            name: "drain",
            arguments: &[],
            help: "Has the runs that there are finish, and starts none; the node is drained then.",
            examples: &["conductor drain --reason update"],
            run: |values| commands::mode(values, "drain"),
        },
        Command {
            name: "doctor",
            arguments: &[],
            help: "Looks at all that conductor stands on, a line a check, daemon running or not; changes nothing.",
            examples: &[
                "conductor doctor --local-api http://127.0.0.1:4317 --codexd-local-api http://127.0.0.1:4319",
            ],
            run: doctor::run,
        },
        Command {
            name: "config",
            arguments: &[],
            help: "Shows the settings as they are read; the token never.",
            examples: &["conductor config --json"],
            run: config,
        },
    ],
};

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
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
        trace::write(Level::Info, None, format_args!("stopping"), &[("reason", name.into())]);
        node.host.stop(); // what its commands came to is written down, if it comes in time
        let _ = calls.send(Input::Stop(name));
    })
    .map_err(|error| failed("cannot wait for signals", &error))?;
    daemon.run().map_err(|message| Failure(EXIT_FAILED, message))
}

fn status(values: &Values) -> Result<(), Failure> {
    let config = Config::read(values)?;
    let daemon = client(&config)?;
    let snapshot = daemon.call("/v1/runtime", None)?;
    if !snapshot["identity"].is_string() {
        return Err(Failure(EXIT_FAILED, "what answers there is no conductor".to_owned()));
    }
    if values.need("--json", boolean)? {
        return say(format_args!("{snapshot:#}\n"));
    }
    let system = daemon.call("/v1/system/state", None)?;
    let codexd = match daemon.call("/v1/codex", None) {
        Ok(data) => format!(
            "{}, {} of {} sessions active",
            data["daemon"]["child"]["status"].as_str().unwrap_or("unknown"),
            data["sessions"]["active_count"],
            data["sessions"]["count"]
        ),
        Err(Failure(_, why)) => why,
    };
    say(status_text(&snapshot, &system, &codexd))
}

/// The node for people, a fact a line.
fn status_text(snapshot: &Value, system: &Value, codexd: &str) -> String {
    let at = |from: &Value, pointer: &str| from.pointer(pointer).cloned().unwrap_or_default();
    let facts = [
        ("identity", at(snapshot, "/identity")),
        ("lease_state", at(snapshot, "/daemon/leaseState")),
        ("holder_id", at(system, "/holder_id")),
        ("mode", at(system, "/mode")),
        ("queued_tasks", at(system, "/queued_tasks")),
        ("active_runs", at(system, "/active_runs")),
        ("version", at(snapshot, "/runtime/version")),
        ("pid", at(snapshot, "/runtime/pid")),
        ("started_at", at(snapshot, "/runtime/startedAt")),
        ("local_api_base", at(snapshot, "/controlApi/localApiBase")),
        ("codexd_local_api_base", at(snapshot, "/codexd/localApiBase")),
        ("codexd", json!(codexd)),
    ];
    let mut lines = config::text(facts);
    for warning in snapshot["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push_str(&format!("warning: {warning}\n"));
    }
    lines
}

/// The running conductor, as commands ask it.
pub(crate) fn client(config: &Config) -> Result<Client, Usage> {
    let authorization = config.token.as_ref().map(Token::authorization);
    Ok(Client::new("conductor", local_api(config)?).with("authorization", authorization))
}

fn local_api(config: &Config) -> Result<LocalUrl, Usage> {
    let missing = || Usage("--local-api (BAA_CONDUCTOR_LOCAL_API) is required".to_string());
    config.local_api.clone().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_has_no_faults() {
        assert_eq!(common::cli::faults(&super::PROGRAM), Vec::<String>::new());
    }
}
