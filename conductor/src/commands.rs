//! The commands that give a running conductor work and watch it, as any other caller does.
//!
//! Owns what they print. They read no file of conductor's and know nothing of its core: all goes over HTTP.

use std::env;
use std::io;
use std::ops::{ControlFlow, RangeInclusive};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::cli::{Failure, age, list, note, say, show, text_or_stdin};
use common::client::Client;
use common::codexd_api::{encoded, with_id};
use common::config::{self, EXIT_FAILED, EXIT_UNAVAILABLE, Usage, Values};
use common::keys::MAX_KEY_BYTES;
use common::signal;
use common::terminal::{Screen, Style};
use serde_json::{Value, json};

use crate::cli::client;
use crate::config::Config;

const TASKS: &str = "/v1/tasks";
const TASK: &str = "/v1/tasks/:id";
const CANCEL: &str = "/v1/tasks/:id/cancel";
const LOGS: &str = "/v1/tasks/:id/logs";
/// Lines of one page: as many as conductor gives.
const PAGE: usize = 500;
/// How long one call waits for a line: a conductor that is frozen is noticed after this and a little more.
const WAIT: Duration = Duration::from_secs(60);
/// A number that the daemon judges.
const ANY: RangeInclusive<u64> = 0..=i64::MAX.unsigned_abs();

/// `conductor submit`
pub(crate) fn submit(values: &Values) -> Result<(), Failure> {
    let (client, follow, json) =
        (client(&Config::read(values)?)?, is_set(values, "--follow")?, is_json(values)?);
    let body = task(values)?;
    let data = client.with("idempotency-key", values.get("--key", key)?);
    let task = data.call(TASKS, Some(&body))?["task"].take();
    let id = text(&task, "task_id");
    match (follow, json) {
        (false, true) => say(format_args!("{task:#}\n")),
        (false, false) => say(format_args!("{id}\n")),
        (true, _) => {
            note(Style::Dim, &format!("conductor: {id} is {}", text(&task, "status")));
            Reader::new(&data, id, 0, json).to_the_end()
        }
    }
}

/// The body that the flags make.
fn task(values: &Values) -> Result<Value, Failure> {
    let mut steps = match values.given_arguments() {
        [] => Vec::new(),
        [text, ..] => vec![json!({ "kind": "codex", "input": text_or_stdin(text)? })],
    };
    let commands = values.all("--step-exec", config::string)?;
    steps.extend(commands.iter().map(|command| json!({ "kind": "exec", "command": command })));
    if steps.is_empty() {
        return Err(Usage("there is nothing to do: TEXT or --step-exec is required".to_owned()).into());
    }
    let whole = |text: &str| text.parse::<i64>().map_err(|_| "is no whole number".to_owned());
    let word = |flag| values.get(flag, config::string).map(|word| json!(word));
    let number = |flag| values.get(flag, config::integer(ANY)).map(|number| json!(number));
    Ok(json!({
        "steps": steps,
        "cwd": values.get("--cwd", config::path)?,
        "title": word("--title")?,
        "priority": values.get("--task-priority", whole)?,
        "timeout_ms": number("--timeout-ms")?,
        "max_attempts": number("--max-attempts")?,
        "model": word("--model")?,
        "sandbox": word("--sandbox")?,
        "approval_policy": values.get("--approval-policy", policy)?,
        "not_before": word("--not-before")?,
    }))
}

/// A kind: an approval policy, a word or an object.
fn policy(text: &str) -> Result<Value, String> {
    match text.starts_with('{') {
        true => serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}")),
        false => Ok(json!(text)),
    }
}

/// A kind: an idempotency key.
fn key(text: &str) -> Result<String, String> {
    match (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err(format!("is not 1 to {MAX_KEY_BYTES} visible ASCII characters")),
    }
}

/// `conductor tasks`
pub(crate) fn tasks(values: &Values) -> Result<(), Failure> {
    let mut query = format!("?limit={}", values.get("--limit", config::integer(ANY))?.unwrap_or(20));
    if let Some(status) = values.get("--status", config::string)? {
        query.push_str(&format!("&status={}", encoded(&status)));
    }
    let data = client(&Config::read(values)?)?.call(&format!("{TASKS}{query}"), None)?;
    if is_json(values)? {
        return say(format_args!("{data:#}\n"));
    }
    let rows: Vec<_> = list(&data, "tasks").map(row).collect();
    if rows.is_empty() {
        return say("No task.\n");
    }
    let heads = ["TASK", "STATUS", "STEP", "FAILED", "AGE", "TITLE"];
    let flow = show(&Screen::of(&io::stdout()).table(heads, &rows))?;
    if let Some(before) = data["next_before"].as_str().filter(|_| flow.is_continue()) {
        note(Style::Dim, &format!("conductor: older ones: GET {TASKS}{query}&before={before}"));
    }
    Ok(())
}

fn row(task: &Value) -> (Style, [String; 6]) {
    let steps = list(task, "steps").count() as u64;
    let done = task["step_index"].as_u64().unwrap_or(0);
    let at = if task["status"] == "running" { (done + 1).min(steps) } else { done };
    let first = &task["steps"][0];
    let title = [&task["title"], &first["input"], &first["command"]];
    let title = title.into_iter().find_map(Value::as_str).unwrap_or("-");
    let cells = [
        text(task, "task_id").to_owned(),
        text(task, "status").to_owned(),
        format!("{at}/{steps}"),
        format!("{}/{}", task["failures"], task["max_attempts"]),
        age(&task["created_at"]),
        title.to_owned(),
    ];
    (style(text(task, "status")), cells)
}

fn style(status: &str) -> Style {
    match status {
        "completed" => Style::Good,
        "running" => Style::Bold,
        "failed" | "error" => Style::Bad,
        "canceled" => Style::Dim,
        "warn" => Style::Warn,
        _ => Style::Plain,
    }
}

/// `conductor logs`
pub(crate) fn logs(values: &Values) -> Result<(), Failure> {
    let client = client(&Config::read(values)?)?;
    let [id] = values.arguments(["TASK"])?;
    let after = values.get("--after", config::integer(ANY))?.unwrap_or(0);
    let reader = Reader::new(&client, id, after, is_json(values)?);
    match is_set(values, "--follow")? {
        true => reader.to_the_end(),
        false => reader.read(Duration::ZERO).map(drop),
    }
}

/// `conductor cancel`
pub(crate) fn cancel(values: &Values) -> Result<(), Failure> {
    let [id] = values.arguments(["TASK"])?;
    let body = json!({ "reason": values.get("--reason", config::string)? });
    let task = client(&Config::read(values)?)?.call(&with_id(CANCEL, id), Some(&body))?["task"].take();
    match (is_json(values)?, task["canceling"] == true) {
        (true, _) => say(format_args!("{task:#}\n")),
        (false, true) => say(format_args!("{id} is being ended\n")),
        (false, false) => say(format_args!("{id} is {}\n", text(&task, "status"))),
    }
}

/// `conductor pause`, `conductor resume`, `conductor drain`
pub(crate) fn mode(values: &Values, action: &str) -> Result<(), Failure> {
    let who = env::var("USER").ok().filter(|who| !who.is_empty());
    let reason = values.get("--reason", config::string)?;
    let body = json!({ "requested_by": who, "reason": reason, "source": "command line" });
    let state = client(&Config::read(values)?)?.call(&format!("/v1/system/{action}"), Some(&body))?;
    match is_json(values)? {
        true => say(format_args!("{state:#}\n")),
        false => say(format_args!(
            "mode: {}\nqueued_tasks: {}\nactive_runs: {}\n",
            text(&state, "mode"),
            state["queued_tasks"],
            state["active_runs"]
        )),
    }
}

/// Whoever reads a task's log, and how far that is.
struct Reader<'a> {
    client: &'a Client,
    id: &'a str,
    /// The last number that was looked at; whoever leaves is told it.
    after: Arc<AtomicU64>,
    screen: Screen,
    json: bool,
}

impl<'a> Reader<'a> {
    fn new(client: &'a Client, id: &'a str, after: u64, json: bool) -> Reader<'a> {
        Reader { client, id, after: Arc::new(after.into()), screen: Screen::of(&io::stdout()), json }
    }

    /// Prints what comes, and ends as the task does.
    fn to_the_end(&self) -> Result<(), Failure> {
        self.leave_it_running()?;
        let read = self.read(WAIT).and_then(|flow| match flow {
            ControlFlow::Break(()) => Ok(None),
            ControlFlow::Continue(()) => self.client.call(&with_id(TASK, self.id), None).map(Some),
        });
        let Some(mut data) = read.map_err(|failure| self.lost(failure))? else { return Ok(()) };
        let task = data["task"].take();
        if self.json {
            say(format_args!("{task}\n"))?;
        }
        let (id, status, error) = (self.id, text(&task, "status"), &task["error"]);
        if status == "completed" {
            note(Style::Good, &format!("conductor: {id} is completed"));
            return Ok(());
        }
        let why = match (error["message"].as_str(), task["cancel_reason"].as_str()) {
            (_, Some(reason)) => format!(": {reason}"),
            (Some(message), _) => format!(": {message} ({})", text(error, "code")),
            (None, None) => String::new(),
        };
        Err(Failure(EXIT_FAILED, format!("{id} is {status}{why}")))
    }

    /// Prints what there is, and with a patience what comes until the task is over; breaks if nobody reads on.
    fn read(&self, patience: Duration) -> Result<ControlFlow<()>, Failure> {
        let path = with_id(LOGS, self.id);
        loop {
            let after = self.after.load(Ordering::Relaxed);
            let target = format!("{path}?limit={PAGE}&after={after}&wait_ms={}", patience.as_millis());
            let page = self.client.wait(&target, None, patience)?;
            for line in list(&page, "logs") {
                if self.print(line)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                self.after.store(line["seq"].as_u64().unwrap_or(after), Ordering::Relaxed);
            }
            let reached = page["next_after"].as_u64().unwrap_or(after);
            self.after.store(reached, Ordering::Relaxed);
            let goes_on = !patience.is_zero() && matches!(text(&page, "status"), "queued" | "running");
            if reached == after && !goes_on {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    fn print(&self, line: &Value) -> Result<ControlFlow<()>, Failure> {
        let mut shown = self.screen.text();
        if self.json {
            shown.put(Style::Plain, &line.to_string());
            shown.end();
            return show(&shown);
        }
        // Without milliseconds, which nobody reads.
        let time = text(line, "created_at").split('.').next().unwrap_or_default();
        let mut before = format!("{time}Z  ");
        for part in text(line, "message").lines() {
            shown.put(Style::Dim, &before);
            shown.put(style(text(line, "level")), part);
            shown.end();
            before = " ".repeat(before.len());
        }
        show(&shown)
    }

    /// Ctrl-C ends the command and not the task: who watches may leave, and is told how to come back or to end it.
    fn leave_it_running(&self) -> Result<(), Failure> {
        let (id, after) = (self.id.to_owned(), self.after.clone());
        signal::on_stop(move |signal| {
            let on = go_on(&id, after.load(Ordering::Relaxed));
            note(
                Style::Warn,
                &format!("conductor: {signal}: {id} goes on; {on}, `conductor cancel {id}` ends it"),
            );
            process::exit(EXIT_FAILED.into());
        })
        .map_err(|error| Failure::new("cannot wait for signals", &error))
    }

    /// A conductor that went away has lost nothing.
    fn lost(&self, Failure(code, why): Failure) -> Failure {
        match code {
            EXIT_UNAVAILABLE => {
                Failure(code, format!("{why}; {}", go_on(self.id, self.after.load(Ordering::Relaxed))))
            }
            _ => Failure(code, why),
        }
    }
}

fn go_on(id: &str, after: u64) -> String {
    format!("`conductor logs {id} --follow --after {after}` shows it")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn is_json(values: &Values) -> Result<bool, Usage> {
    is_set(values, "--json")
}

fn is_set(values: &Values, switch: &str) -> Result<bool, Usage> {
    values.need(switch, config::boolean)
}
