//! Idempotency keys: what a request with a key came to, so that the same one again comes to the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha1::{Digest, Sha1};

use crate::Error;
use crate::error;
use crate::http::Request;
use crate::log::Seq;
use crate::time::Timestamp;
use crate::wire::{self, Field, Object, invalid};

/// How long a key is remembered: a day.
pub const KEY_LIFE_MS: u64 = 24 * 60 * 60 * 1000;
/// How many keys are remembered at once: some 2 MB of each checkpoint.
pub const MAX_KEYS: usize = 10_000;

/// The header that names a request.
pub const HEADER: &str = "Idempotency-Key";
/// The longest key: twice what a UUID with a prefix needs.
pub const MAX_KEY_BYTES: usize = 128;

/// A caller's name for a request, and what tells another request under the same name; both hashed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Of route and key.
    pub hash: String,
    /// Of the body.
    pub body: String,
}

impl Key {
    /// The key of a request to `route` whose body has these fields; `None` without the header.
    ///
    /// # Errors
    /// `invalid_request` for a header that is no key.
    pub fn of(request: &Request, route: &str, fields: &[Field], body: &Object) -> Result<Option<Key>, Error> {
        let Some(key) = request.header(HEADER) else { return Ok(None) };
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("Header `{HEADER}` must be 1 to {MAX_KEY_BYTES} visible ASCII characters.");
            return Err(invalid(HEADER, message));
        }
        // In the order of their names, so that who forwards a body does not change what it asks for.
        let asked = wire::object_of(fields.iter().filter_map(|f| Some((f.name, body.get(f.name)?.clone()))));
        let body = serde_json::to_vec(&asked).unwrap_or_default();
        Ok(Some(Key { hash: sha1(format!("{route} {key}").as_bytes()), body: sha1(&body) }))
    }
}

/// The SHA-1 of a text, in hex: names what is kept, and proves nothing.
pub fn sha1(text: &[u8]) -> String {
    Sha1::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key that is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Keyed<O> {
    /// Of the body.
    pub body: String,
    /// What became of it.
    pub outcome: O,
    /// When it was first seen.
    pub at: Timestamp,
    seq: Seq,
}

/// All keys that are remembered, each with an outcome `O`. They expire by the time of events, so that replay does as life
/// did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Keyed<O>>", into = "BTreeMap<String, Keyed<O>>")]
#[serde(bound(serialize = "O: Clone + Serialize", deserialize = "O: Deserialize<'de>"))]
pub struct Keys<O> {
    by_hash: BTreeMap<String, Keyed<O>>,
    by_age: BTreeMap<Seq, String>,
}

impl<O> Default for Keys<O> {
    fn default() -> Keys<O> {
        Keys { by_hash: BTreeMap::new(), by_age: BTreeMap::new() }
    }
}

impl<O> Keys<O> {
    /// What a key came to, unless it is too old.
    pub fn get(&self, hash: &str, now: Timestamp) -> Option<&Keyed<O>> {
        self.by_hash.get(hash).filter(|keyed| !expired(keyed, now))
    }

    /// What a request with this key came to; `None` if it is a new one, for which there is room.
    ///
    /// # Errors
    /// `conflict` if the key was used for another request, `too_many_requests` without room for one more.
    pub fn admit(&self, key: &Key, now: Timestamp) -> Result<Option<&Keyed<O>>, Error> {
        match self.get(&key.hash, now) {
            Some(known) if known.body != key.body => {
                let message = "The Idempotency-Key was used with another body.";
                Err(Error::new(error::CONFLICT, message).details(json!({ "header": HEADER })))
            }
            Some(known) => Ok(Some(known)),
            None if self.have_room(now) => Ok(None),
            None => {
                let message =
                    format!("{MAX_KEYS} idempotency keys are remembered, which is all that may be.");
                Err(Error::new(error::TOO_MANY_REQUESTS, message).header("Retry-After", "600"))
            }
        }
    }

    /// How many are remembered, expired ones too until they are looked at.
    pub fn count(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether there is room for one more.
    fn have_room(&self, now: Timestamp) -> bool {
        let oldest = self.by_age.values().next().and_then(|hash| self.by_hash.get(hash));
        self.by_hash.len() < MAX_KEYS || oldest.is_none_or(|keyed| expired(keyed, now))
    }

    /// Every key with what it came to, those that are too old and not forgotten yet among them.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Keyed<O>)> {
        self.by_hash.iter().map(|(hash, keyed)| (hash.as_str(), keyed))
    }

    /// The keys that `remember` forgets at this time, oldest first.
    pub fn expired(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        let is_old = move |hash: &&String| self.by_hash.get(*hash).is_none_or(|keyed| expired(keyed, now));
        self.by_age.values().take_while(is_old).map(String::as_str)
    }

    /// Remembers a key from the event `seq` on, and forgets those that are too old by then.
    pub fn remember(&mut self, key: &Key, outcome: O, seq: Seq, now: Timestamp) {
        let old: Vec<String> = self.expired(now).map(str::to_owned).collect();
        for hash in old.iter().chain([&key.hash]) {
            self.forget(hash);
        }
        self.by_age.insert(seq, key.hash.clone());
        self.by_hash.insert(key.hash.clone(), Keyed { body: key.body.clone(), outcome, at: now, seq });
    }

    /// Says what became of a request.
    pub fn settle(&mut self, hash: &str, outcome: O) {
        if let Some(keyed) = self.by_hash.get_mut(hash) {
            keyed.outcome = outcome;
        }
    }

    /// Forgets a key; the same one again is a new one.
    pub fn forget(&mut self, hash: &str) {
        if let Some(keyed) = self.by_hash.remove(hash) {
            self.by_age.remove(&keyed.seq);
        }
    }
}

fn expired<O>(keyed: &Keyed<O>, now: Timestamp) -> bool {
    keyed.at.millis() + KEY_LIFE_MS <= now.millis()
}

impl<O> From<BTreeMap<String, Keyed<O>>> for Keys<O> {
    fn from(by_hash: BTreeMap<String, Keyed<O>>) -> Keys<O> {
        let mut by_age = BTreeMap::new();
        by_age.extend(by_hash.iter().map(|(hash, keyed)| (keyed.seq, hash.clone())));
        Keys { by_hash, by_age }
    }
}

impl<O> From<Keys<O>> for BTreeMap<String, Keyed<O>> {
    fn from(keys: Keys<O>) -> BTreeMap<String, Keyed<O>> {
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
        let (mut keys, at) = (Keys::<()>::default(), Timestamp::from_millis);
        for n in 0..MAX_KEYS {
            assert!(keys.have_room(at(n as u64)));
            keys.remember(&key(n), (), n as Seq, at(n as u64));
        }
        assert!(!keys.have_room(at(KEY_LIFE_MS - 1)));
        assert!(keys.have_room(at(KEY_LIFE_MS)), "the oldest has expired");
        assert_eq!(keys.get("00000", at(KEY_LIFE_MS - 1)).map(|keyed| keyed.at), Some(at(0)));
        assert_eq!(keys.get("00000", at(KEY_LIFE_MS)), None);
        keys.remember(&key(MAX_KEYS), (), MAX_KEYS as Seq, at(KEY_LIFE_MS + 5));
        assert_eq!(keys.by_hash.len(), MAX_KEYS - 5, "the expired six are gone");
        let text = serde_json::to_string(&keys).unwrap();
        assert_eq!(serde_json::from_str::<Keys<()>>(&text).unwrap(), keys);
    }
}
