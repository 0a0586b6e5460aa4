//! One thing that happened in a turn: what was put in, said, run or changed.

use common::log::Seq;
use common::time::Timestamp;
use serde_json::{Map, Value, json};

use super::file;
use crate::cut;

/// What is left of an item for which there is no room.
const SHORT_BYTES: usize = 1024;

/// One thing that happened in a turn.
pub(super) struct Entry {
    kind: Kind,
    seq: Seq,
    at: Timestamp,
    /// As the child told it; of an input its items.
    item: Value,
    cut: Cut,
    /// Why no end of it will be told.
    closed: Option<String>,
}

/// What it is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// What the turn was asked with.
    Input,
    /// What went into it while it ran.
    Steering,
    Message,
    Command,
    FileChange,
    Other,
}

/// Whether something is missing from what a line holds.
#[derive(Default)]
pub(super) struct Cut {
    pub(super) truncated: bool,
    /// The name of the whole, where it is kept.
    pub(super) whole: Option<String>,
}

impl Cut {
    /// What an event says of itself.
    pub(super) fn of(detail: &Map<String, Value>) -> Cut {
        let truncated = detail.get("truncated") == Some(&Value::Bool(true));
        let whole =
            detail.get("whole").and_then(Value::as_str).filter(|name| truncated && file::is_sha1(name));
        Cut { truncated, whole: whole.map(str::to_owned) }
    }
}

impl Entry {
    pub(super) fn new(kind: Kind, seq: Seq, at: Timestamp, item: Value, cut: Cut) -> Entry {
        Entry { kind, seq, at, item, cut, closed: None }
    }

    pub(super) fn is_input(&self) -> bool {
        matches!(self.kind, Kind::Input | Kind::Steering)
    }

    /// Whether this is the beginning of the item `id`, whose end was not told yet.
    pub(super) fn is_open(&self, id: &Value) -> bool {
        id.is_string()
            && self.item["id"] == *id
            && self.item["status"] == "inProgress"
            && self.closed.is_none()
    }

    /// The end of what has begun here.
    pub(super) fn end(&mut self, end: Entry) {
        *self = Entry { seq: self.seq, at: self.at, ..end };
    }

    /// No end of it will be told.
    pub(super) fn close(&mut self, reason: String) {
        self.closed = Some(reason);
    }

    /// Takes its part of the room, as it is or made short; `false` if there is none at all.
    pub(super) fn fit(&mut self, bytes: usize, room: &mut usize) -> bool {
        if bytes <= *room {
            *room -= bytes;
            return true;
        }
        let item = Map::from_iter([("item".to_owned(), self.item.take())]);
        let mut short = cut::object(item, bytes.max(SHORT_BYTES + 1), SHORT_BYTES);
        self.item = short.remove("item").unwrap_or_default();
        self.cut.truncated = true;
        let fits = SHORT_BYTES <= *room;
        *room = room.saturating_sub(SHORT_BYTES);
        fits
    }

    /// The name of the whole, while a part is missing.
    pub(super) fn whole(&self) -> Option<&str> {
        self.cut.whole.as_deref()
    }

    /// Takes the whole: input items as they were given, or the parameters of a notification.
    pub(super) fn restore(&mut self, mut whole: Value) {
        self.item = match &mut whole {
            Value::Array(_) => whole,
            detail if self.is_input() => detail["item"]["content"].take(),
            detail => detail["item"].take(),
        };
        self.cut = Cut::default();
    }

    /// The place among the lists of a turn: input, messages, commands, file changes, others.
    pub(super) fn list(&self) -> usize {
        match self.kind {
            Kind::Input | Kind::Steering => 0,
            Kind::Message => 1,
            Kind::Command => 2,
            Kind::FileChange => 3,
            Kind::Other => 4,
        }
    }

    /// As it is shown; a change of many files is many.
    pub(super) fn view(self) -> Vec<Value> {
        let Entry { kind, seq, at, mut item, cut: Cut { truncated, .. }, closed } = self;
        let status = |item: &Value| if closed.is_some() { json!("closed") } else { item["status"].clone() };
        let take = |item: &mut Value, key: &str| item.get_mut(key).map(Value::take).unwrap_or_default();
        match kind {
            Kind::Input | Kind::Steering => {
                let steered = kind == Kind::Steering;
                vec![
                    json!({ "seq": seq, "at": at, "steered": steered, "items": item, "truncated": truncated }),
                ]
            }
            Kind::Message => {
                vec![json!({ "seq": seq, "at": at, "text": take(&mut item, "text"), "truncated": truncated })]
            }
            Kind::Command => vec![json!({
                "seq": seq,
                "at": at,
                "status": status(&item),
                "reason": closed,
                "command": take(&mut item, "command"),
                "cwd": take(&mut item, "cwd"),
                "exitCode": take(&mut item, "exitCode"),
                "durationMs": take(&mut item, "durationMs"),
                "output": take(&mut item, "aggregatedOutput"),
                "truncated": truncated,
            })],
            Kind::FileChange => {
                let (status, changes) = (status(&item), take(&mut item, "changes"));
                let one = |change: &Value| {
                    let kind = &change["kind"];
                    json!({
                        "seq": seq,
                        "at": at,
                        "status": status,
                        "reason": closed,
                        "path": change["path"],
                        "kind": if kind["type"].is_null() { kind } else { &kind["type"] },
                        "movePath": if kind["movePath"].is_null() { &kind["move_path"] } else { &kind["movePath"] },
                        "diff": change["diff"],
                        "truncated": truncated,
                    })
                };
                changes.as_array().into_iter().flatten().map(one).collect()
            }
            Kind::Other => vec![json!({ "seq": seq, "at": at, "item": item, "truncated": truncated })],
        }
    }
}
