//! `codexd turn`: sends one, tells how it goes, and ends as it ended.

use std::io;
use std::ops::ControlFlow;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::cli::{Failure, note, say, text_or_stdin};
use common::client::Client;
use common::codexd_api::{INTERRUPT, MAX_WAIT_MS, TURN, TURN_READ, with_id};
use common::config::{EXIT_FAILED, EXIT_UNAVAILABLE, Values};
use common::signal;
use common::terminal::{Screen, Style};
use serde_json::{Value, json};

use super::{client, words};
use crate::config::{Config, FLAGS};

/// Messages of the agent that are being written at once; there is one, as far as anybody has seen.
const MAX_OPEN_MESSAGES: usize = 64;

/// `codexd turn`
pub fn turn(values: &Values) -> Result<(), Failure> {
    let config = Config::read(values)?;
    let [session, text] = values.arguments(["SESSION", "TEXT"])?;
    let body = json!({ "sessionId": session, "input": text_or_stdin(text)? });
    let client = client(&config)?;
    let follow = values.need("--follow", common::config::boolean)?;
    let id = Arc::<Mutex<String>>::default();
    leave_it_running(&config, session, &id)?;
    let mut watch = Watch { at: at(&config), follow, json: config.json, ..Watch::default() };
    let streamed = client.stream(TURN, Some(&body), |line| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        if event["type"] == "turn.accepted" {
            *lock(&id) = event["detail"]["turnId"].as_str().unwrap_or_default().to_owned();
        }
        watch.see(&event)?;
        Ok(ControlFlow::Continue(()))
    });
    watch.end_line()?;
    let id = lock(&id).clone();
    let lost = |Failure(code, why)| match (code, id.as_str()) {
        (EXIT_UNAVAILABLE, id) if !id.is_empty() => Failure(
            code,
            format!("{why}; what becomes of turn {id} is told by GET {}", with_id(TURN_READ, id)),
        ),
        _ => Failure(code, why),
    };
    streamed.map_err(lost)?;
    let (status, why) = match watch.end.filter(|_| follow) {
        Some(end) => end,
        None => {
            let turn = ended(&client, &id).map_err(lost)?;
            if !follow {
                print(&turn, config.json)?;
            }
            let text = |key: &str| turn[key].as_str().map(str::to_owned);
            (text("status").unwrap_or_default(), text("error"))
        }
    };
    match status.as_str() {
        "completed" => Ok(()),
        status => Err(Failure(EXIT_FAILED, format!("turn {id} {}", words::with_reason(status, why)))),
    }
}

/// The flag with which a command asks this codexd, where it would ask another one without.
fn at(config: &Config) -> String {
    let base = config.local_api_base.to_string();
    let usual = FLAGS.iter().any(|flag| flag.name == "--local-api-base" && flag.default == base);
    if usual { String::new() } else { format!(" --local-api-base {base}") }
}

/// Ctrl-C ends the command and not the turn: who watches may leave, and is told how to come back or to end it.
fn leave_it_running(config: &Config, session: &str, id: &Arc<Mutex<String>>) -> Result<(), Failure> {
    let (base, at) = (config.local_api_base.clone(), at(config));
    let (session, id) = (session.to_owned(), id.clone());
    signal::on_stop(move |signal| {
        let interrupt = with_id(INTERRUPT, &session);
        let turn = match lock(&id).as_str() {
            "" => "a turn that was taken".to_owned(),
            id => format!("turn {id}"),
        };
        note(
            Style::Warn,
            &format!(
                "codexd: {signal}: {turn} goes on; `codexd events --session {session} --follow{at}` shows it, \
                 `curl -X POST {base}{interrupt}` ends it"
            ),
        );
        process::exit(EXIT_FAILED.into());
    })
    .map_err(|error| Failure::new("cannot wait for signals", &error))
}

/// The turn, once it has ended.
fn ended(client: &Client, id: &str) -> Result<Value, Failure> {
    let target = format!("{}?waitMs={MAX_WAIT_MS}", with_id(TURN_READ, id));
    loop {
        let mut data = client.wait(&target, None, Duration::from_millis(MAX_WAIT_MS.unsigned_abs()))?;
        if data["turn"]["status"].as_str().is_none_or(words::is_over) {
            return Ok(data["turn"].take());
        }
    }
}

fn print(turn: &Value, json: bool) -> Result<(), Failure> {
    match (json, turn["text"].as_str()) {
        (true, _) => say(format_args!("{turn:#}\n")),
        (false, None) => Ok(()),
        (false, Some(text)) => {
            say(format_args!("{text}\n"))?;
            if turn["truncated"] == true {
                note(
                    Style::Warn,
                    "codexd: some of this text is missing; the session's transcript may have it",
                );
            }
            Ok(())
        }
    }
}

/// What somebody who watches a turn has seen of it.
#[derive(Default)]
struct Watch {
    /// What a command needs to be told to ask the same codexd.
    at: String,
    follow: bool,
    json: bool,
    /// The message that is being written, and whether its line has an end.
    speaks: String,
    in_line: bool,
    /// Messages of which pieces were told, so that the whole is not told again.
    told: Vec<String>,
    /// How the turn ended, and why.
    end: Option<(String, Option<String>)>,
}

impl Watch {
    fn see(&mut self, event: &Value) -> Result<(), Failure> {
        self.end = words::end(event).or(self.end.take());
        if self.follow && self.json {
            return say(format_args!("{event}\n"));
        }
        let (detail, kind) = (&event["detail"], event["type"].as_str().unwrap_or_default());
        let item = &detail["item"];
        match (kind, item["type"].as_str()) {
            ("approval.requested", _) => self.asks(detail),
            _ if !self.follow => Ok(()),
            ("app-server.turn.message.delta", _) => {
                let (id, delta) = (detail["itemId"].as_str().unwrap_or_default(), detail["delta"].as_str());
                self.speak(id, delta.unwrap_or_default())
            }
            ("app-server.item.completed", Some("agentMessage")) => self.said(detail),
            ("app-server.item.started", Some("commandExecution"))
            | ("app-server.item.completed", Some("fileChange")) => self.tell(Style::Dim, words::item(item)),
            ("app-server.item.completed", Some("commandExecution")) if item["status"] != "completed" => {
                self.tell(Style::Dim, words::item(item))
            }
            ("app-server.error" | "approval.resolved" | "turn.steered", _) => {
                self.tell(Style::Dim, Some(words::event(event)))
            }
            _ => Ok(()),
        }
    }

    /// A piece of a message; each message begins a line.
    fn speak(&mut self, id: &str, piece: &str) -> Result<(), Failure> {
        if self.speaks != id {
            self.end_line()?;
            id.clone_into(&mut self.speaks);
        }
        if !self.told.iter().any(|told| told == id) {
            if self.told.len() == MAX_OPEN_MESSAGES {
                self.told.remove(0);
            }
            self.told.push(id.to_owned());
        }
        self.in_line = if piece.is_empty() { self.in_line } else { !piece.ends_with('\n') };
        say(piece)
    }

    /// A message is whole; one that came without pieces is told now.
    fn said(&mut self, detail: &Value) -> Result<(), Failure> {
        let (id, text) = (detail["item"]["id"].as_str().unwrap_or_default(), detail["item"]["text"].as_str());
        match self.told.iter().position(|told| told == id) {
            Some(at) => drop(self.told.remove(at)),
            None => {
                self.speak(id, text.unwrap_or_default())?;
                self.told.pop();
                if detail["truncated"].is_boolean() {
                    self.tell(
                        Style::Warn,
                        Some("the text is cut here; the session's transcript has all of it".into()),
                    )?;
                }
            }
        }
        self.end_line()
    }

    /// Nobody else may be there to say yes or no.
    fn asks(&mut self, detail: &Value) -> Result<(), Failure> {
        let word = |key: &str| detail[key].as_str().unwrap_or_default();
        let (id, asked) = (word("approvalId"), words::asked(&detail["request"]).join("; "));
        let how = match word("kind") {
            "question" => format!("POST /v1/codexd/approvals/{id} with {{\"answers\": …}} answers"),
            _ => format!("`codexd approve {id}{at}` or `codexd decline {id}{at}` answers", at = self.at),
        };
        self.tell(Style::Warn, Some(format!("waits until {}: {asked}; {how}", word("deadlineAt"))))
    }

    fn tell(&mut self, style: Style, text: Option<String>) -> Result<(), Failure> {
        let Some(text) = text else { return Ok(()) };
        // On one screen a line of its own; elsewhere the answer stays as it is.
        if Screen::of(&io::stdout()).is_terminal {
            self.end_line()?;
        }
        note(style, &text);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.in_line) { say("\n") } else { Ok(()) }
    }
}

fn lock(id: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    id.lock().unwrap_or_else(PoisonError::into_inner)
}
