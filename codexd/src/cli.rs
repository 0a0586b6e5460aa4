//! The command line: what each command does, and what it prints.

use std::io;
use std::sync::Arc;

use common::child::is_alive;
use common::cli::{Command, Failure, Program, say};
use common::log::Feed;
use common::wire;
use serde_json::Value;

use crate::config::{Config, FLAGS};
use crate::core::{STATUS_SESSIONS, Snapshot};
use crate::documents::{self, Paths};
use crate::state::ChildStatus;
use crate::transcript::Transcripts;
use crate::{api, commands, daemon, doctor, smoke};

/// Everything that codexd can be told.
pub const PROGRAM: Program = Program {
    name: "codexd",
    about: "the only place where Codex runs",
    version: env!("CARGO_PKG_VERSION"),
    flags: FLAGS,
    commands: &[
        Command {
            name: "start",
            arguments: &[],
            help: "Runs the daemon until SIGTERM.",
            examples: &["codexd start --repo-root ~/baa-conductor"],
            run: |values| Ok(daemon::run(&Config::read(values)?)?),
        },
        Command {
            name: "status",
            arguments: &[],
            help: "Shows what the state directory says, daemon running or not.",
            examples: &["codexd status --json"],
            run: |values| status(&Config::read(values)?),
        },
        Command {
            name: "config",
            arguments: &[],
            help: "Shows the settings as they are read.",
            examples: &["codexd config --json"],
            run: |values| config(&Config::read(values)?),
        },
        Command {
            name: "doctor",
            arguments: &[],
            help: "Looks at all that codexd stands on, a line a check, daemon running or not; changes nothing.",
            examples: &["codexd doctor", "codexd doctor --json"],
            run: |values| doctor::run(&Config::read(values)?),
        },
        Command {
            name: "smoke",
            arguments: &[],
            help: "Sends one turn through a throw-away codexd of its own, a line a check.",
            examples: &["codexd smoke --server-command /opt/homebrew/bin/codex"],
            run: |values| Ok(smoke::run(&Config::read(values)?)?),
        },
        Command {
            name: "sessions",
            arguments: &[],
            help: "Lists the sessions of a running codexd, the newest last.",
            examples: &["codexd sessions", "codexd sessions --json"],
            run: commands::sessions,
        },
        Command {
            name: "turn",
            arguments: &["SESSION", "TEXT"],
            help: "Sends a turn and prints the answer. TEXT - reads it from stdin. The answer is what the agent says last, once \
                   the turn has ended; with --follow it is all that the agent says, as it is written. What the agent does \
                   (with --follow) and waits for is told on stderr. --json prints the turn, with --follow its events, a line \
                   each; without it control characters are shown escaped. Exits 0 only if the turn completed. Ctrl-C ends \
                   the command and leaves the turn running, and says how to follow it or to end it.",
            examples: &[
                "codexd turn session-1 'What is in this folder?' --follow",
                "codexd turn session-1 - --json",
                "codexd turn session-1 -- '--help is what?'",
            ],
            run: commands::turn,
        },
        Command {
            name: "events",
            arguments: &[],
            help: "Prints what happened, an event a line. On a terminal for people (times are UTC), else and with --json each \
                   line is JSON. With --follow it goes on with what happens, until codexd stops: it exits 69 then, and says \
                   how to go on. What is no longer retained is told on stderr.",
            examples: &[
                "codexd events --after 120",
                "codexd events --follow --session session-1 --type 'turn.*'",
            ],
            run: commands::events,
        },
        Command {
            name: "approvals",
            arguments: &[],
            help: "Lists what agents wait for: until when, and what they ask.",
            examples: &["codexd approvals"],
            run: commands::approvals,
        },
        Command {
            name: "approve",
            arguments: &["ID"],
            help: "Lets an agent do what it asks for, this once.",
            examples: &["codexd approve approval-1"],
            run: |values| commands::decide(values, "accept"),
        },
        Command {
            name: "decline",
            arguments: &["ID"],
            help: "Does not let it; its turn goes on without.",
            examples: &["codexd decline approval-1"],
            run: |values| commands::decide(values, "decline"),
        },
    ],
};

fn config(config: &Config) -> Result<(), Failure> {
    if config.json {
        return say_json(&Value::Object(wire::object_of(config.rows())));
    }
    let lines: String =
        config.rows().iter().map(|(key, value)| format!("{key}: {}\n", plain(value))).collect();
    say(&lines)
}

/// The daemon's own replay, read-only: what an HTTP answer has shown, this shows, too.
fn status(config: &Config) -> Result<(), Failure> {
    let paths = daemon::paths(config);
    let snapshot = snapshot(config, &paths).map_err(|error| format!("{}: {error}", paths.state.display()))?;
    if config.json {
        return say_json(&snapshot);
    }
    say(format_args!("state: {}\n{}", paths.state.display(), summary(&snapshot)))
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
    if let Ok(text) = common::document::bytes(&paths.state("identity.json")) {
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
    let started = if daemon["started"] == true { "running, pid" } else { "not running; it last was pid" };
    let mut text = format!(
        "codexd: {started} {}, started {}\nchild: {}, pid {}, version {}, restarts {}\n",
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

fn say_json(value: &Value) -> Result<(), Failure> {
    say(format_args!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_has_no_faults() {
        assert_eq!(common::cli::faults(&super::PROGRAM), Vec::<String>::new());
    }
}
