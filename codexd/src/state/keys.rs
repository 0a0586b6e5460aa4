//! Idempotency keys: what a request with a key came to, so that the same one again comes to the same.

use std::collections::BTreeMap;

use common::log::Seq;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How long a key is remembered: a day.
pub const KEY_LIFE_MS: u64 = 24 * 60 * 60 * 1000;
/// How many keys are remembered at once: some 2 MB of each checkpoint.
pub const MAX_KEYS: usize = 10_000;

/// A caller's name for a request, and what tells another request under the same name; both hashed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Of route and key.
    pub hash: String,
    /// Of the body.
    pub body: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// A turn that the child has not answered for.
    Asked,
    /// A turn that ended before anybody learned its name, or whether the child ever began it.
    Unknown,
    /// This session was made.
    Session(String),
    /// This turn was taken, or steered, with the event `seq`.
    Turn {
        /// Where.
        session_id: String,
        /// The child's name for it.
        turn_id: String,
        /// The event.
        seq: Seq,
    },
}

/// A key that is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Keyed {
    /// Of the body.
    pub body: String,
    /// What became of it.
    pub outcome: Outcome,
    /// When it was first seen.
    pub at: Timestamp,
    seq: Seq,
}

/// All keys that are remembered. They expire by the time of events, so that replay does as life did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Keyed>", into = "BTreeMap<String, Keyed>")]
pub struct Keys {
    by_hash: BTreeMap<String, Keyed>,
    by_age: BTreeMap<Seq, String>,
}

impl Keys {
    /// What a key came to, unless it is too old.
    pub fn get(&self, hash: &str, now: Timestamp) -> Option<&Keyed> {
        self.by_hash.get(hash).filter(|keyed| !expired(keyed, now))
    }

    /// How many are remembered, expired ones too until they are looked at.
    pub fn count(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether there is room for one more.
    pub fn have_room(&self, now: Timestamp) -> bool {
        let oldest = self.by_age.values().next().and_then(|hash| self.by_hash.get(hash));
        self.by_hash.len() < MAX_KEYS || oldest.is_none_or(|keyed| expired(keyed, now))
    }

    pub(super) fn remember(&mut self, key: &Key, outcome: Outcome, seq: Seq, now: Timestamp) {
        while let Some((&oldest, hash)) = self.by_age.first_key_value() {
            if self.by_hash.get(hash).is_some_and(|keyed| !expired(keyed, now)) {
                break;
            }
            let hash = hash.clone();
            self.by_age.remove(&oldest);
            self.by_hash.remove(&hash);
        }
        self.forget(&key.hash);
        self.by_age.insert(seq, key.hash.clone());
        self.by_hash.insert(key.hash.clone(), Keyed { body: key.body.clone(), outcome, at: now, seq });
    }

    pub(super) fn settle(&mut self, hash: &str, outcome: Outcome) {
        if let Some(keyed) = self.by_hash.get_mut(hash) {
            keyed.outcome = outcome;
        }
    }

    pub(super) fn forget(&mut self, hash: &str) {
        if let Some(keyed) = self.by_hash.remove(hash) {
            self.by_age.remove(&keyed.seq);
        }
    }
}

fn expired(keyed: &Keyed, now: Timestamp) -> bool {
    keyed.at.millis() + KEY_LIFE_MS <= now.millis()
}

impl From<BTreeMap<String, Keyed>> for Keys {
    fn from(by_hash: BTreeMap<String, Keyed>) -> Keys {
        let by_age = by_hash.iter().map(|(hash, keyed)| (keyed.seq, hash.clone())).collect();
        Keys { by_hash, by_age }
    }
}

impl From<Keys> for BTreeMap<String, Keyed> {
    fn from(keys: Keys) -> BTreeMap<String, Keyed> {
        keys.by_hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key { hash: format!("{n:05}"), body: "b".into() }
    }

    #[test]
    fn a_key_is_remembered_for_a_day_and_there_is_a_bound() {
        let (mut keys, at) = (Keys::default(), Timestamp::from_millis);
        for n in 0..MAX_KEYS {
            assert!(keys.have_room(at(n as u64)));
            keys.remember(&key(n), Outcome::Asked, n as Seq, at(n as u64));
        }
        assert!(!keys.have_room(at(KEY_LIFE_MS - 1)));
        assert!(keys.have_room(at(KEY_LIFE_MS)), "the oldest has expired");
        assert_eq!(keys.get("00000", at(KEY_LIFE_MS - 1)).map(|keyed| keyed.at), Some(at(0)));
        assert_eq!(keys.get("00000", at(KEY_LIFE_MS)), None);
        keys.remember(&key(MAX_KEYS), Outcome::Asked, MAX_KEYS as Seq, at(KEY_LIFE_MS + 5));
        assert_eq!(keys.by_hash.len(), MAX_KEYS - 5, "the expired six are gone");
        let text = serde_json::to_string(&keys).unwrap();
        assert_eq!(serde_json::from_str::<Keys>(&text).unwrap(), keys);
    }
}
