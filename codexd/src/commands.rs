//! The commands that ask a running codexd, as any other caller does.
//!
//! Owns what they print. They read no file of codexd's and know nothing of its core: all goes over HTTP. `turn` and
//! `events` follow what happens, `words` says it.

mod events;
mod turn;
mod words;

use std::io;

use common::cli::{Failure, age, left, list, note, say, show};
use common::client::Client;
use common::codexd_api::{APPROVAL, APPROVALS, SESSIONS, with_id};
use common::config::{EXIT_FAILED, Usage, Values};
use common::terminal::{Screen, Style};
use serde_json::{Value, json};

pub use events::events;
pub use turn::turn;

use crate::config::Config;

/// `codexd sessions`
pub fn sessions(values: &Values) -> Result<(), Failure> {
    let config = Config::read(values)?;
    let data = client(&config)?.call(SESSIONS, None)?;
    if config.json {
        return say(format_args!("{data:#}\n"));
    }
    let row = |session: &Value| {
        let text = |key: &str| session[key].as_str().unwrap_or("-").to_owned();
        let style = match (session["status"].as_str(), session["currentTurnId"].is_string()) {
            (Some("closed"), _) => Style::Dim,
            (_, true) => Style::Good,
            _ => Style::Plain,
        };
        let (turn, age) = (text("lastTurnStatus"), age(&session["createdAt"]));
        (style, [text("sessionId"), text("status"), text("purpose"), turn, age, text("cwd")])
    };
    let rows: Vec<_> = list(&data, "sessions").map(row).collect();
    if rows.is_empty() {
        return say("No session yet.\n");
    }
    let heads = ["SESSION", "STATUS", "PURPOSE", "TURN", "AGE", "CWD"];
    let flow = show(&Screen::of(&io::stdout()).table(heads, &rows))?;
    if let Some(cursor) = data["nextCursor"].as_str().filter(|_| flow.is_continue()) {
        note(Style::Dim, &format!("codexd: older ones: {}{SESSIONS}?cursor={cursor}", config.local_api_base));
    }
    Ok(())
}

/// `codexd approvals`
pub fn approvals(values: &Values) -> Result<(), Failure> {
    let config = Config::read(values)?;
    let data = client(&config)?.call(APPROVALS, None)?;
    if config.json {
        return say(format_args!("{data:#}\n"));
    }
    let mut text = Screen::of(&io::stdout()).text();
    for approval in list(&data, "approvals") {
        let word = |key: &str| approval[key].as_str().unwrap_or("-");
        text.put(Style::Bold, word("approvalId"));
        text.put(Style::Plain, &format!("  {}  {}  ", word("kind"), word("sessionId")));
        text.put(
            Style::Warn,
            &format!("until {} ({} left)", word("deadlineAt"), left(&approval["deadlineAt"])),
        );
        text.end();
        // Never cut: who approves must have seen all of it.
        for asked in words::asked(&approval["request"]) {
            text.put(Style::Plain, &format!("    {asked}"));
            text.end();
        }
    }
    match text.as_str() {
        "" => say("Nothing waits.\n"),
        _ => show(&text).map(drop),
    }
}

/// `codexd approve`, `codexd decline`
pub fn decide(values: &Values, decision: &str) -> Result<(), Failure> {
    let config = Config::read(values)?;
    let [id] = values.arguments(["ID"])?;
    let data = client(&config)?.call(&with_id(APPROVAL, id), Some(&json!({ "decision": decision })))?;
    if !data["approval"].is_object() {
        return Err(Failure(EXIT_FAILED, "what answers there is no codexd".to_owned()));
    }
    let past = if decision == "accept" { "Approved" } else { "Declined" };
    say(format_args!("{past} {id}: {}\n", words::asked(&data["approval"]["request"]).join("; ")))
}

fn client(config: &Config) -> Result<Client, Usage> {
    match config.local_api_base.port {
        0 => Err(Usage("--local-api-base (BAA_CODEXD_LOCAL_API_BASE) has no port to connect to".to_owned())),
        _ => Ok(Client::new("codexd", config.local_api_base.clone())),
    }
}
