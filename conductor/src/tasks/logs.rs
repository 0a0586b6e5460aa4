//! What a task's runs wrote: lines of the node's log, found between the task's first event and its last line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::Error;
use common::http::{Answer, LOOK_EVERY, Request};
use common::log::{Cursor, Feed, Got, Seq};
use serde_json::{Value, json};

use super::{limit, unreadable};
use crate::api::Node;
use crate::core::{Read, Reply};
use crate::event::{self, Event};
use crate::state::Task;

/// How many events before a task's newest line its newest lines are looked for in at first.
const FIRST_LOOK: Seq = 4096;
/// How much of a log one page is looked for in.
const MAX_SCAN_BYTES: usize = 64 * 1024 * 1024;
/// How often a node that stands by looks for what the leader wrote, while somebody waits for it.
const STANDBY_LOOKS_EVERY: Duration = Duration::from_millis(250);
/// One read of the log.
const READ_BYTES: usize = 256 * 1024;

/// `GET /v1/tasks/:task_id/logs`.
pub(crate) fn logs(node: &Node, request: &Request) -> Result<Answer, Error> {
    let number = |name: &str| request.query_value(name).and_then(|value| value.parse::<u64>().ok());
    let task_id = request.param("task_id").to_owned();
    let run_id = request.query_value("run_id").map(|run| run.to_string());
    let mut task = one(node, &task_id)?;
    let mut feed = node.lines()?;
    let limit = limit(request, 200);
    let page = |after, newest| {
        let (task_id, run_id, lines) = (task_id.clone(), run_id.clone(), VecDeque::new());
        Page { task_id, run_id, limit, newest, lines, reached: after, scanned: 0 }
    };
    let (mut page, mut cursor) = match number("after") {
        Some(after) => {
            let after = after.max(task.seq);
            let (mut page, mut cursor) = (page(after, false), Cursor::after(after));
            page.read(&feed, &mut cursor, task.last_line)?;
            (page, cursor)
        }
        None => {
            // From the end, further and further back, until there is enough.
            let mut back = FIRST_LOOK;
            loop {
                let after = task.last_line.saturating_sub(back).max(task.seq);
                let (mut page, mut cursor) = (page(after, true), Cursor::after(after));
                page.read(&feed, &mut cursor, task.last_line)?;
                if page.lines.len() >= limit || after == task.seq || page.scanned >= MAX_SCAN_BYTES / 8 {
                    break (page, cursor);
                }
                back *= 8;
            }
        }
    };
    let until = Instant::now() + Duration::from_millis(number("wait_ms").unwrap_or(0));
    let waits = || Instant::now() < until && !node.host.is_stopping() && !request.abandoned();
    while page.lines.is_empty() && !task.status.is_over() && waits() {
        match node.feed.get() {
            Some(_) => feed.sleep(cursor.seq, until.min(Instant::now() + LOOK_EVERY)),
            None => thread::sleep(STANDBY_LOOKS_EVERY), // what the leader writes wakes nobody here
        }
        task = one(node, &task_id)?; // before its lines: of one that is over, all are there
        let newest = node.lines()?;
        if !Arc::ptr_eq(&newest, &feed) {
            (feed, cursor) = (newest, Cursor::after(cursor.seq));
        }
        page.read(&feed, &mut cursor, Seq::MAX)?;
    }
    let data = json!({
        "status": task.status.name(),
        "count": page.lines.len(),
        "logs": page.lines,
        "next_after": page.reached,
    });
    Ok(Answer::Json { status: 200, data })
}

fn one(node: &Node, task_id: &str) -> Result<Arc<Task>, Error> {
    match node.see(Read::Task(task_id.to_owned()))? {
        Reply::Tasks(_, tasks) => tasks.into_iter().next(),
        _ => None,
    }
    .ok_or_else(|| unreadable("no task"))
}

struct Page {
    task_id: String,
    run_id: Option<String>,
    limit: usize,
    /// The newest lines are wanted, else the first ones.
    newest: bool,
    lines: VecDeque<Value>,
    /// The last number that was looked at.
    reached: Seq,
    scanned: usize,
}

impl Page {
    /// Reads up to a number, or as far as there is something.
    fn read(&mut self, feed: &Feed, cursor: &mut Cursor, to: Seq) -> Result<(), Error> {
        while cursor.seq < to && !self.is_full() && self.scanned < MAX_SCAN_BYTES {
            let got = feed.read(cursor, READ_BYTES, |seq, line| self.look(seq, line, to));
            match got.map_err(|error| unreadable(&error.to_string()))? {
                Got::Lines | Got::Gap { .. } => {}
                Got::Nothing | Got::Closed => return Ok(()),
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        !self.newest && self.lines.len() >= self.limit
    }

    fn look(&mut self, seq: Seq, line: &str, to: Seq) {
        if self.is_full() || seq > to {
            return;
        }
        (self.reached, self.scanned) = (seq, self.scanned + line.len());
        if !line.contains("\"type\":\"run.line\"") || !line.contains(&self.task_id) {
            return;
        }
        let Ok(event::Record { seq, at, event: Event::RunLine { run_id, task_id, level, message, .. } }) =
            event::parse(line)
        else {
            return;
        };
        if task_id != self.task_id || self.run_id.as_ref().is_some_and(|wanted| *wanted != run_id) {
            return;
        }
        self.lines.push_back(
            json!({ "seq": seq, "run_id": run_id, "level": level, "message": message, "created_at": at }),
        );
        if self.lines.len() > self.limit {
            self.lines.pop_front();
        }
    }
}
