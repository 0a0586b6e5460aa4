//! `codexd events`: what happened, and with `--follow` what happens.

use std::io;
use std::ops::ControlFlow;

use common::cli::{Failure, list, note, show};
use common::client::Client;
use common::codexd_api::{MAX_PAGE, encoded};
use common::config::{self, EXIT_UNAVAILABLE, Values};
use common::terminal::{Screen, Style};
use serde_json::Value;

use super::{client, words};
use crate::config::Config;

/// `codexd events`
pub fn events(values: &Values) -> Result<(), Failure> {
    let config = Config::read(values)?;
    let (client, screen) = (client(&config)?, Screen::of(&io::stdout()));
    let mut filter = String::new();
    for (flag, name) in [("--session", "sessionId"), ("--type", "type")] {
        if let Some(value) = values.get(flag, config::string)? {
            filter.push_str(&format!("&{name}={}", encoded(&value)));
        }
    }
    let mut reader = Reader {
        path: config.event_stream_path.clone(),
        filter,
        after: values.get("--after", config::integer(0..=i64::MAX.unsigned_abs()))?,
        screen,
        json: config.json || !screen.is_terminal,
        one_session: values.has("--session"),
        day: String::new(),
    };
    if reader.pages(&client)?.is_break() || !values.need("--follow", config::boolean)? {
        return Ok(());
    }
    match reader.follow(&client) {
        Err(Failure(EXIT_UNAVAILABLE, why)) => {
            let after = reader.after.unwrap_or(0);
            Err(Failure(EXIT_UNAVAILABLE, format!("{why}; `--after {after}` goes on from there")))
        }
        other => other,
    }
}

/// Whoever reads events, and how far that is.
struct Reader {
    path: String,
    filter: String,
    after: Option<u64>,
    screen: Screen,
    json: bool,
    /// Which is told once, not in each line.
    one_session: bool,
    /// Of the newest event, since lines have but its time.
    day: String,
}

impl Reader {
    /// Prints what there is by now; breaks if nobody reads on.
    fn pages(&mut self, client: &Client) -> Result<ControlFlow<()>, Failure> {
        let mut end = None;
        loop {
            let after = self.after.map_or(String::new(), |after| format!("&after={after}"));
            let target = format!("{}?limit={MAX_PAGE}{after}{}", self.path, self.filter);
            let page = client.call(&target, None)?;
            let number = |key: &str| page[key].as_u64().unwrap_or(0);
            tell_gap(&page["gap"]);
            for event in list(&page, "events") {
                if self.print(event)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            // What comes while we read is no part of it, or a busy log would have no end.
            let end = *end.get_or_insert(number("latestSeq"));
            let reached = number("nextAfter");
            if reached >= end {
                self.after = Some(reached);
                return Ok(ControlFlow::Continue(()));
            }
            if self.after.replace(reached) == Some(reached) {
                return Err(Failure(
                    EXIT_UNAVAILABLE,
                    format!("codexd stops; `--after {reached}` goes on from there"),
                ));
            }
        }
    }

    /// Prints what comes, until codexd goes away or nobody reads on.
    fn follow(&mut self, client: &Client) -> Result<(), Failure> {
        let target = format!("{}?after={}{}", self.path, self.after.unwrap_or(0), self.filter);
        let mut left = false;
        client.stream(&target, None, |line| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            match event["type"].as_str() {
                Some("stream.hello") => return Ok(ControlFlow::Continue(())),
                Some("stream.gap") => {
                    tell_gap(&event);
                    return Ok(ControlFlow::Continue(()));
                }
                _ => {}
            }
            let flow = self.print(&event)?;
            (self.after, left) = (event["seq"].as_u64().or(self.after), flow.is_break());
            Ok(flow)
        })?;
        match left {
            true => Ok(()),
            false => Err(Failure(EXIT_UNAVAILABLE, "codexd stops".to_owned())),
        }
    }

    fn print(&mut self, event: &Value) -> Result<ControlFlow<()>, Failure> {
        let mut text = self.screen.text();
        if self.json {
            text.put(Style::Plain, &event.to_string());
            text.end();
            return show(&text);
        }
        let word = |key: &str| event[key].as_str().unwrap_or_default();
        let (day, time) = word("createdAt").split_once('T').unwrap_or_default();
        if self.day != day {
            day.clone_into(&mut self.day);
            text.put(Style::Dim, &format!("{day} (UTC)"));
            text.end();
        }
        let style = match word("level") {
            "error" => Style::Bad,
            "warn" => Style::Warn,
            "debug" => Style::Dim,
            _ => Style::Bold,
        };
        let (time, seq) = (time.split('.').next().unwrap_or_default(), event["seq"].as_u64().unwrap_or(0));
        text.put(Style::Dim, &format!("{time}  {seq:>5}  "));
        text.put(style, word("type"));
        if let Some(session) = event["detail"]["sessionId"].as_str().filter(|_| !self.one_session) {
            text.put(Style::Dim, &format!("  {session}"));
        }
        text.rest(Style::Plain, &format!("  {}", words::event(event)));
        text.end();
        show(&text)
    }
}

fn tell_gap(gap: &Value) {
    if let (Some(from), Some(to)) = (gap["fromSeq"].as_u64(), gap["toSeq"].as_u64()) {
        note(
            Style::Warn,
            &format!(
                "codexd: events {from} to {to} cannot be had: they are retained no more, or not there yet"
            ),
        );
    }
}
