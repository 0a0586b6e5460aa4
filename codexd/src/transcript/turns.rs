//! Turns out of a transcript's lines, as a person reads them back.

use std::collections::HashMap;

use common::log::Seq;
use common::time::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::entry::{Cut, Entry, Kind};

/// Takes lines in their order, and has turns at the end.
pub(super) struct Builder {
    turns: Vec<Turn>,
    by_id: HashMap<String, usize>,
    /// The turn that was asked for and that the child has not named yet.
    asked: Option<usize>,
    /// How many bytes of lines may still be kept as they are.
    room: usize,
    /// Only what became of the turns and their last words are kept.
    brief: bool,
}

/// A turn.
pub(super) struct Turn {
    /// The number of the first line that names it, or asks for it.
    pub(super) begin: Seq,
    pub(super) text: Option<Text>,
    pub(super) entries: Vec<Entry>,
    id: Option<String>,
    status: String,
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
    refused: bool,
    usage: Value,
    error: Option<String>,
    /// Why somebody wanted it to end.
    interrupt: Option<String>,
    /// Entries for which there was no room at all.
    omitted: usize,
}

/// The last words of a turn.
pub(super) struct Text {
    pub(super) text: String,
    /// Not all of it.
    pub(super) truncated: bool,
    /// The name of the whole item, while the text is cut.
    pub(super) whole: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    seq: Seq,
    created_at: Timestamp,
    r#type: String,
    detail: Map<String, Value>,
}

impl Line {
    fn text(&self, key: &str) -> Option<String> {
        self.detail.get(key).and_then(Value::as_str).map(str::to_owned)
    }
}

/// Whether a line begins a turn that was asked for, or names one; by its head, which nobody else writes into.
pub(super) fn opens(head: &[u8]) -> Option<Opener> {
    const KEY: &[u8] = b"\"type\":\"";
    let at = head.windows(KEY.len()).position(|bytes| bytes == KEY)?;
    let name = &head[at + KEY.len()..];
    if name.starts_with(b"turn.requested\"") {
        return Some(Opener::Asked);
    }
    name.starts_with(b"app-server.turn.started\"").then_some(Opener::Started)
}

/// What a turn begins with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Opener {
    /// Somebody asked for it.
    Asked,
    /// The child told that it began, asked for or not.
    Started,
}

impl Builder {
    /// One that keeps about `room` bytes of lines as they are.
    pub(super) fn new(room: usize) -> Builder {
        Builder { turns: Vec::new(), by_id: HashMap::new(), asked: None, room, brief: false }
    }

    /// One that keeps of a turn what became of it, and its last words. While `begin` is 0, there was no line of it.
    pub(super) fn brief(turn_id: &str) -> Builder {
        let mut builder = Builder { brief: true, ..Builder::new(0) };
        builder.begin(0, Timestamp::default(), Some(turn_id.to_owned()), "accepted");
        builder
    }

    /// Whether this turn is among those that were taken.
    pub(super) fn knows(&self, turn_id: &str) -> bool {
        self.by_id.contains_key(turn_id)
    }

    /// Whether its end was among the lines.
    pub(super) fn has_ended(&self, turn_id: &str) -> bool {
        self.by_id.get(turn_id).is_some_and(|&turn| self.turns[turn].ended_at.is_some())
    }

    /// The turns, in order; those that the child refused are none.
    pub(super) fn finish(self) -> Vec<Turn> {
        self.turns.into_iter().filter(|turn| !turn.refused).collect()
    }

    /// Takes a line. One that is none is left out: the log has it, and a reader has the rest.
    pub(super) fn take(&mut self, text: &str) {
        let Ok(mut line) = serde_json::from_str::<Line>(text) else { return };
        let turn_id = line.text("turnId");
        if let (true, Some(turn)) = (self.brief, self.turns.first_mut()) {
            turn.begin = turn.begin.max(line.seq);
        }
        match line.r#type.as_str() {
            "turn.requested" => {
                self.begin(line.seq, line.created_at, None, "requested");
                self.asked = Some(self.turns.len() - 1);
                let input = line.detail.remove("input").unwrap_or_default();
                self.input(self.turns.len() - 1, &line, text.len(), input, Kind::Input);
            }
            "turn.accepted" => self.name(&line, turn_id, "accepted"),
            "app-server.turn.started" => self.name(&line, turn_id, "inProgress"),
            "turn.refused" => {
                if let Some(asked) = self.asked.take() {
                    self.turns[asked].refused = true;
                }
            }
            "turn.steered" => {
                if let Some(turn) = self.of(turn_id) {
                    let input = line.detail.remove("input").unwrap_or_default();
                    self.input(turn, &line, text.len(), input, Kind::Steering);
                }
            }
            "turn.interrupt_requested" => {
                if let Some(turn) = self.of_or_asked(turn_id) {
                    self.turns[turn].interrupt = self.turns[turn].interrupt.take().or(line.text("reason"));
                }
            }
            "turn.interrupted" => {
                let reason = line.text("reason");
                self.end(&line, turn_id, "interrupted".to_owned(), reason);
            }
            "turn.settled" => {
                let status = line.text("status").unwrap_or_default();
                self.end(&line, turn_id, status, None);
            }
            "app-server.turn.completed" => {
                let turn = &line.detail.get("turn").cloned().unwrap_or_default();
                let status = turn["status"].as_str().unwrap_or("interrupted").to_owned();
                let error = turn["error"]["message"].as_str().map(str::to_owned);
                self.end(&line, turn_id, status, error);
            }
            "app-server.thread.tokenUsage.updated" => {
                // A child that loads a thread tells the last turn's again.
                if let Some(turn) = self.of(turn_id).filter(|&turn| self.turns[turn].ended_at.is_none()) {
                    self.turns[turn].usage = line.detail.remove("tokenUsage").unwrap_or_default();
                }
            }
            "item.closed" => self.close(&line, turn_id),
            "app-server.item.started" | "app-server.item.completed" => {
                if let Some(turn) = self.of(turn_id) {
                    self.item(turn, line, text.len());
                }
            }
            _ => {}
        }
    }

    fn of(&self, turn_id: Option<String>) -> Option<usize> {
        self.by_id.get(&turn_id?).copied()
    }

    fn of_or_asked(&self, turn_id: Option<String>) -> Option<usize> {
        if turn_id.is_none() { self.asked } else { self.of(turn_id) }
    }

    fn begin(&mut self, seq: Seq, at: Timestamp, id: Option<String>, status: &str) {
        if let Some(id) = &id {
            self.by_id.insert(id.clone(), self.turns.len());
        }
        self.turns.push(Turn {
            begin: seq,
            text: None,
            entries: Vec::new(),
            id,
            status: status.to_owned(),
            started_at: at,
            ended_at: None,
            refused: false,
            usage: Value::Null,
            error: None,
            interrupt: None,
            omitted: 0,
        });
    }

    /// The child has a name for a turn: of the one that was asked for, or of one that it began by itself.
    fn name(&mut self, line: &Line, turn_id: Option<String>, status: &str) {
        let Some(id) = turn_id else { return };
        if let Some(&turn) = self.by_id.get(&id) {
            let turn = &mut self.turns[turn];
            if turn.ended_at.is_none() && status == "inProgress" {
                turn.status = status.to_owned();
            }
        } else if let Some(asked) = self.asked.take() {
            self.by_id.insert(id.clone(), asked);
            (self.turns[asked].id, self.turns[asked].status) = (Some(id), status.to_owned());
        } else {
            self.begin(line.seq, line.created_at, Some(id), status);
        }
    }

    fn end(&mut self, line: &Line, turn_id: Option<String>, status: String, error: Option<String>) {
        let Some(turn) = (match &turn_id {
            Some(id) if !self.by_id.contains_key(id) => {
                // It ended before the answer that names it; or it is older than all that was taken.
                let asked = self.asked.take();
                asked.inspect(|&asked| {
                    self.by_id.insert(id.clone(), asked);
                    self.turns[asked].id = turn_id.clone();
                })
            }
            Some(_) => self.of(turn_id),
            None => self.asked.take(),
        }) else {
            return;
        };
        let turn = &mut self.turns[turn];
        turn.ended_at = Some(line.created_at);
        // The child does not say why it interrupted a turn; who wanted it did.
        turn.error = error.or_else(|| turn.interrupt.take().filter(|_| status == "interrupted"));
        turn.status = status;
    }

    fn input(&mut self, turn: usize, line: &Line, bytes: usize, input: Value, kind: Kind) {
        let (items, cut) = match input {
            Value::Null => return, // an older version did not keep it
            Value::Object(mut cut) => (cut.remove("items").unwrap_or_default(), Cut::of(&cut)),
            items => (items, Cut::default()),
        };
        self.keep(turn, Entry::new(kind, line.seq, line.created_at, items, cut), bytes);
    }

    fn item(&mut self, turn: usize, mut line: Line, bytes: usize) {
        let Some(item) = line.detail.remove("item").filter(Value::is_object) else { return };
        let cut = Cut::of(&line.detail);
        let kind = match item["type"].as_str() {
            Some("agentMessage") => Kind::Message,
            Some("commandExecution") => Kind::Command,
            Some("fileChange") => Kind::FileChange,
            // Its caller's own words stand there already, unless nobody here asked.
            Some("userMessage") if self.turns[turn].entries.iter().any(Entry::is_input) => return,
            Some("userMessage") => Kind::Input,
            _ => Kind::Other,
        };
        if kind == Kind::Message {
            let text = item["text"].as_str().unwrap_or_default().to_owned();
            self.turns[turn].text = Some(Text { text, truncated: cut.truncated, whole: cut.whole.clone() });
        }
        let item = if kind == Kind::Input { item["content"].clone() } else { item };
        let begun = self.turns[turn].entries.iter().rposition(|entry| entry.is_open(&item["id"]));
        let mut entry = Entry::new(kind, line.seq, line.created_at, item, cut);
        match begun {
            Some(begun) => {
                entry.fit(bytes, &mut self.room);
                self.turns[turn].entries[begun].end(entry);
            }
            None => self.keep(turn, entry, bytes),
        }
    }

    fn close(&mut self, line: &Line, turn_id: Option<String>) {
        let (Some(turn), Some(id)) = (self.of(turn_id), line.text("itemId")) else { return };
        let id = Value::from(id);
        if let Some(entry) = self.turns[turn].entries.iter_mut().rev().find(|entry| entry.is_open(&id)) {
            entry.close(line.text("reason").unwrap_or_default());
        }
    }

    fn keep(&mut self, turn: usize, mut entry: Entry, bytes: usize) {
        if self.brief {
            return;
        }
        let turn = &mut self.turns[turn];
        match entry.fit(bytes, &mut self.room) {
            true => turn.entries.push(entry),
            false => turn.omitted += 1,
        }
    }
}

impl Turn {
    /// All of it.
    pub(super) fn view(self) -> Value {
        let mut lists: [Vec<Value>; 5] = Default::default();
        for entry in self.entries {
            lists[entry.list()].extend(entry.view());
        }
        let [input, messages, commands, file_changes, others] = lists;
        json!({
            "turnId": self.id,
            "status": self.status,
            "startedAt": self.started_at,
            "endedAt": self.ended_at,
            "input": input,
            "truncated": self.text.as_ref().is_some_and(|text| text.truncated),
            "text": self.text.map(|text| text.text),
            "messages": messages,
            "commands": commands,
            "fileChanges": file_changes,
            "others": others,
            "usage": self.usage,
            "error": self.error,
            "omitted": self.omitted,
        })
    }

    /// What became of it, and its last words.
    pub(super) fn brief(self) -> Value {
        json!({
            "turnId": self.id,
            "status": self.status,
            "truncated": self.text.as_ref().is_some_and(|text| text.truncated),
            "text": self.text.map(|text| text.text),
            "usage": self.usage,
            "error": self.error,
        })
    }
}
