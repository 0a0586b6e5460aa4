//! Adjacent pieces of one item are merged: the first goes out at once, what follows at most every 50 ms.
//!
//! A child can send 28 000 deltas a second; one line of the log each would fill the whole log in half a minute.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::event::Notice;

/// How far apart merged deltas of one item are: soon enough to read along.
pub const MERGE: Duration = Duration::from_millis(50);
/// A merged delta that has grown to this goes out at once.
pub const MERGED_BYTES: usize = 32 * 1024;

/// Items that are merged at once; all of them are looked at whenever something is due.
pub const MAX_ITEMS: usize = 256;

/// Turn, item, and kind of delta.
type Key = (Option<String>, String, String);

#[derive(Default)]
pub(crate) struct Deltas(BTreeMap<Key, Buffered>);

struct Buffered {
    thread_id: Option<String>,
    /// When one last went out.
    last: Duration,
    held: Option<Notice>,
}

impl Deltas {
    /// Takes a notification in and gives back what is to be written down now, in order.
    pub(crate) fn take(&mut self, now: Duration, notice: Notice) -> Vec<Notice> {
        let Some(key) = key(&notice) else { return self.flush_before(notice) };
        let known = self.0.contains_key(&key);
        if !known && self.0.len() >= MAX_ITEMS {
            let mut out = self.flush_all(); // more than anybody reads along with
            out.push(notice);
            return out;
        }
        let Some(buffered) = self.0.get_mut(&key) else {
            self.0.insert(key, Buffered { thread_id: notice.thread_id.clone(), last: now, held: None });
            return vec![notice];
        };
        let mut out = Vec::new();
        match buffered.held.take() {
            None if now >= buffered.last + MERGE => {
                buffered.last = now;
                out.push(notice);
            }
            None => buffered.held = Some(notice),
            Some(mut held) => match merge(&mut held, notice) {
                Ok(()) => buffered.held = Some(held),
                Err(notice) => {
                    out.push(held);
                    buffered.held = Some(notice);
                }
            },
        }
        if buffered.held.as_ref().is_some_and(|held| delta(held).len() >= MERGED_BYTES) {
            buffered.last = now;
            out.extend(buffered.held.take());
        }
        out
    }

    /// Gives back what has been held for long enough.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Notice> {
        let mut out = Vec::new();
        for buffered in self.0.values_mut().filter(|buffered| buffered.last + MERGE <= now) {
            if let Some(held) = buffered.held.take() {
                buffered.last = now;
                out.push(held);
            }
        }
        out
    }

    /// Gives back all that is held of a thread, and forgets its items.
    pub(crate) fn flush(&mut self, thread_id: Option<&str>) -> Vec<Notice> {
        let mut out = Vec::new();
        self.0.retain(|_, buffered| {
            let other = buffered.thread_id.as_deref() != thread_id;
            if !other {
                out.extend(buffered.held.take());
            }
            other
        });
        out
    }

    /// Gives back all that is held, and forgets every item.
    pub(crate) fn flush_all(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.0).into_values().filter_map(|buffered| buffered.held).collect()
    }

    /// When something that is held is due.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.0.values().filter(|buffered| buffered.held.is_some()).map(|buffered| buffered.last + MERGE).min()
    }

    fn flush_before(&mut self, notice: Notice) -> Vec<Notice> {
        let mut out = match &notice.thread_id {
            Some(thread_id) => self.flush(Some(thread_id)),
            None => Vec::new(),
        };
        out.push(notice);
        out
    }
}

fn key(notice: &Notice) -> Option<Key> {
    let mergeable = notice.is_delta() && notice.detail.get("delta").is_some_and(Value::is_string);
    // Without a session nothing would ever flush and forget it.
    let item_id = notice.item_id.clone().filter(|_| mergeable && notice.session_id.is_some())?;
    Some((notice.turn_id.clone(), item_id, notice.method.clone()))
}

fn delta(notice: &Notice) -> &str {
    notice.detail.get("delta").and_then(Value::as_str).unwrap_or_default()
}

/// Appends `next` to `held`, if they differ in nothing but the delta.
fn merge(held: &mut Notice, next: Notice) -> Result<(), Notice> {
    let same = held.detail.len() == next.detail.len()
        && held.detail.iter().all(|(key, value)| key == "delta" || next.detail.get(key) == Some(value));
    match held.detail.get_mut("delta") {
        Some(Value::String(text)) if same => {
            text.push_str(delta(&next));
            Ok(())
        }
        _ => Err(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn piece(item: &str, text: &str, part: u64) -> Notice {
        let detail = json!({"threadId": "t", "turnId": "u", "itemId": item, "delta": text, "part": part});
        let notice = Notice::new("item/agentMessage/delta".into(), detail.as_object().unwrap().clone());
        Notice { session_id: Some("s".into()), ..notice }
    }

    /// Each word is a time and what comes then: `0:a` a piece of item 1, `0:2a` of item 2, `0:!` another notice of the
    /// thread, `0:` nothing but the time. Gives back what went out, in order.
    fn check(script: &str, expected: &str) {
        let (mut deltas, mut out) = (Deltas::default(), Vec::new());
        for word in script.split_whitespace() {
            let (at, what) = word.split_once(':').unwrap();
            let now = Duration::from_millis(at.parse().unwrap());
            if deltas.deadline().is_some_and(|at| at <= now) {
                out.extend(deltas.due(now));
            }
            out.extend(match what {
                "" => vec![],
                "!" => {
                    let detail = json!({"threadId": "t", "turnId": "u"});
                    deltas.take(now, Notice::new("turn/x".into(), detail.as_object().unwrap().clone()))
                }
                text if text.starts_with('2') => deltas.take(now, piece("2", &text[1..], 0)),
                text if text.starts_with('#') => deltas.take(now, piece("1", &text[1..], 1)),
                text => deltas.take(now, piece("1", text, 0)),
            });
        }
        let words: Vec<_> = out.iter().map(|n| if n.is_delta() { delta(n) } else { "!" }).collect();
        assert_eq!(words.join(" "), expected, "{script}");
    }

    #[test]
    fn the_first_goes_at_once_and_the_rest_together() {
        check("0:a 1:b 2:c 49: 50:d 60:e 100:", "a bc de");
        check("0:a 200:b 201:c 251:", "a b c");
        check("0:a 1:2x 2:b 3:2y 60:", "a x b y");
    }

    #[test]
    fn nothing_of_a_thread_overtakes_a_delta() {
        check("0:a 1:b 2:! 3:c", "a b ! c");
    }

    #[test]
    fn what_differs_elsewhere_is_not_merged() {
        check("0:a 1:b 2:#c 60:", "a b c");
    }

    #[test]
    fn items_are_bounded() {
        let mut deltas = Deltas::default();
        for item in 0..10 * MAX_ITEMS {
            assert!(!deltas.take(Duration::ZERO, piece(&item.to_string(), "a", 0)).is_empty());
            assert!(deltas.0.len() <= MAX_ITEMS);
        }
    }

    #[test]
    fn a_large_one_does_not_wait() {
        let mut deltas = Deltas::default();
        deltas.take(Duration::ZERO, piece("1", "a", 0));
        let out = deltas.take(Duration::ZERO, piece("1", &"x".repeat(MERGED_BYTES), 0));
        assert_eq!((out.len(), deltas.deadline()), (1, None));
    }
}
