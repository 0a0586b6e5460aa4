//! A notification of the child, with what codexd looks at picked out.

use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cut::Whole;
use crate::state::TurnStatus;

/// A notification of the child, with what the state needs of it picked out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notice {
    /// As the child names it: `turn/started`.
    pub method: String,
    /// The session it belongs to, if codexd has one.
    pub session_id: Option<String>,
    /// The child's thread.
    pub thread_id: Option<String>,
    /// The child's turn.
    pub turn_id: Option<String>,
    /// The item of the turn.
    pub item_id: Option<String>,
    /// What kind of item that is.
    pub item_type: Option<String>,
    /// What `turn/completed` says of the turn.
    pub end: Option<TurnEnd>,
    /// All parameters, ids added; empty in replay, where nobody asks.
    pub detail: Map<String, Value>,
    /// How much memory it holds, about.
    pub bytes: usize,
    /// All parameters as they came, where the detail was cut and the transcript keeps the whole.
    pub whole: Option<Arc<Whole>>,
}

/// How a turn ended, in the child's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnEnd {
    /// The status that the child gives.
    pub status: TurnStatus,
    /// The message of its error.
    pub error: Option<String>,
}

impl Notice {
    /// Picks the ids out of a notification's parameters, and adds those that stand deeper to the top.
    pub fn new(method: String, detail: Map<String, Value>) -> Notice {
        let whole = Value::Object(detail);
        let known = Known::deserialize(&whole).unwrap_or_default();
        let mut notice = known.into_notice(method);
        if let Value::Object(detail) = whole {
            notice.detail = detail;
        }
        let ids = [("threadId", notice.thread_id.clone()), ("turnId", notice.turn_id.clone())];
        for (key, id) in ids {
            if let Some(id) = id {
                notice.detail.insert(key.to_owned(), Value::String(id));
            }
        }
        notice
    }

    /// Whether it is a piece of something that comes whole later.
    pub fn is_delta(&self) -> bool {
        self.method.ends_with("/delta") || self.method.ends_with("Delta")
    }

    /// Whether readers of recent events are spared it: deltas, token usage, rate limits.
    pub fn is_noise(&self) -> bool {
        self.is_delta()
            || matches!(self.method.as_str(), "thread/tokenUsage/updated" | "account/rateLimits/updated")
    }

    /// Whether transcripts keep it: what a turn came to, what it cost, and what may stay without an end of its own.
    pub fn is_transcribed(&self) -> bool {
        match self.method.as_str() {
            "item/started" => matches!(self.item_type.as_deref(), Some("commandExecution" | "fileChange")),
            "turn/started" | "item/completed" | "thread/tokenUsage/updated" | "turn/completed" => true,
            _ => false,
        }
    }

    pub(super) fn event_type(&self) -> String {
        match self.method.as_str() {
            "item/agentMessage/delta" => "app-server.turn.message.delta".to_owned(),
            method => format!("app-server.{}", method.replace('/', ".")),
        }
    }
}

/// What of a notification's parameters is looked at. Whatever has a wrong type is not there: the same when it comes from
/// the child as when it is read back from the log.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Known {
    session_id: Lenient<String>,
    thread_id: Lenient<String>,
    turn_id: Lenient<String>,
    item_id: Lenient<String>,
    thread: Lenient<Identified>,
    turn: Lenient<Identified>,
    item: Lenient<Identified>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Identified {
    id: Lenient<String>,
    r#type: Lenient<String>,
    status: Lenient<TurnStatus>,
    error: Lenient<TurnError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TurnError {
    message: Lenient<String>,
}

/// A value of this type, or nothing.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Is(T),
    IsNot(IgnoredAny),
}

impl<T> Default for Lenient<T> {
    fn default() -> Lenient<T> {
        Lenient::IsNot(IgnoredAny)
    }
}

impl<T> Lenient<T> {
    fn get(self) -> Option<T> {
        if let Lenient::Is(value) = self { Some(value) } else { None }
    }
}

impl Known {
    pub(super) fn into_notice(self, method: String) -> Notice {
        let inner = |part: Lenient<Identified>| part.get().unwrap_or_default();
        let (thread, turn, item) = (inner(self.thread), inner(self.turn), inner(self.item));
        let end = (method == "turn/completed").then(|| TurnEnd {
            status: turn.status.get().unwrap_or_default(),
            error: turn.error.get().and_then(|error| error.message.get()),
        });
        Notice {
            thread_id: self.thread_id.get().or(thread.id.get()),
            turn_id: self.turn_id.get().or(turn.id.get()),
            item_id: self.item_id.get().or(item.id.get()),
            item_type: item.r#type.get(),
            session_id: self.session_id.get(),
            end,
            method,
            detail: Map::new(),
            bytes: 0,
            whole: None,
        }
    }
}
