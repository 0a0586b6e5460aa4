//! Makes a JSON object small: long strings end early, and it says so.

use std::sync::Arc;

use common::keys::sha1;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::app_server::protocol::MAX_DETAIL_BYTES;

/// What was cut is kept whole up to this; measured of the child: 8 MB.
pub const MAX_WHOLE_BYTES: usize = 16 * 1024 * 1024;

/// What was cut out of an event, whole. The event names it by the hash of its text.
#[derive(Debug, PartialEq)]
pub struct Whole {
    /// 40 hex digits.
    pub sha1: String,
    /// JSON.
    pub text: Vec<u8>,
}

impl Whole {
    /// The text of a value, and its name.
    pub fn of(value: &impl Serialize) -> Whole {
        let text = serde_json::to_vec(value).unwrap_or_default(); // strings and maps of strings: nothing in them can fail
        Whole { sha1: sha1(&text), text }
    }
}

/// Input items as an event holds them. What is too large becomes an object with the `items` cut, saying so, and with the
/// name of the `whole`.
pub fn input(items: &Value) -> (Value, Option<Arc<Whole>>) {
    if weight(items) <= MAX_DETAIL_BYTES {
        return (items.clone(), None);
    }
    let whole = Whole::of(items);
    let bytes = whole.text.len();
    let mut cut = object(Map::from_iter([("items".to_owned(), items.clone())]), bytes, MAX_DETAIL_BYTES);
    if bytes > MAX_WHOLE_BYTES {
        return (cut.into(), None);
    }
    cut.insert("whole".into(), whole.sha1.clone().into());
    (cut.into(), Some(Arc::new(whole)))
}

/// How many bytes a value is as text, about.
fn weight(value: &Value) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    match value {
        Value::String(text) => text.bytes().map(escaped).sum::<usize>() + 2,
        Value::Array(values) => values.iter().map(|value| weight(value) + 1).sum(),
        Value::Object(object) => object.iter().map(|(key, value)| key.len() + 4 + weight(value)).sum(),
        _ => 1,
    }
}

/// An object of which the line it came in had `bytes`, cut to about `max` bytes: `truncated` and `bytes` are added then.
///
/// Strings are shortened first, then lists; what is still too large keeps short values near its top, which is where ids
/// and states are.
pub fn object(object: Map<String, Value>, bytes: usize, max: usize) -> Map<String, Value> {
    if bytes <= max {
        return object;
    }
    let mut whole = Value::Object(object);
    let steps = [(max / 4, usize::MAX), (max / 64, 64), (256, 8), (64, 1), (64, 0)];
    for (longest, most) in steps {
        shorten(&mut whole, longest, most);
        if whole.to_string().len() <= max {
            break;
        }
    }
    if whole.to_string().len() > max {
        keep_short(&mut whole, 3);
    }
    let Value::Object(mut object) = whole else { return Map::new() };
    if size(&object) > max {
        object.clear();
    }
    object.insert("truncated".into(), true.into());
    object.insert("bytes".into(), bytes.into());
    object
}

/// How many bytes an object is as text.
pub fn size(object: &Map<String, Value>) -> usize {
    serde_json::to_vec(object).map_or(usize::MAX, |text| text.len())
}

fn shorten(value: &mut Value, longest: usize, most: usize) {
    match value {
        Value::String(text) if text.len() > longest => {
            let end = (0..=longest).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
            text.shrink_to_fit(); // or what is small still owns all that it was
        }
        Value::Array(values) => {
            values.truncate(most);
            values.shrink_to_fit();
            values.iter_mut().for_each(|value| shorten(value, longest, most));
        }
        Value::Object(object) => object.values_mut().for_each(|value| shorten(value, longest, most)),
        _ => {}
    }
}

/// Leaves short values, down to so many levels of objects.
fn keep_short(value: &mut Value, levels: usize) {
    const SHORT: usize = 128;
    if let Value::Object(object) = value {
        object.retain(|key, value| match value {
            Value::String(text) => key.len() + text.len() <= SHORT,
            Value::Array(_) => false,
            Value::Object(_) => levels > 1 && key.len() <= SHORT,
            _ => key.len() <= SHORT,
        });
        object.values_mut().for_each(|value| keep_short(value, levels - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cut(value: Value, max: usize) -> Map<String, Value> {
        let object = value.as_object().unwrap().clone();
        let bytes = size(&object);
        super::object(object, bytes, max)
    }

    #[test]
    fn an_input_that_is_too_large_is_cut_and_kept_whole_up_to_a_bound() {
        let items = |bytes: usize| json!([{ "type": "text", "text": "\n".repeat(bytes / 2) }]); // two bytes each
        let (held, whole) = input(&items(MAX_DETAIL_BYTES - 100));
        assert!(held == items(MAX_DETAIL_BYTES - 100) && whole.is_none());
        let (held, whole) = input(&items(MAX_DETAIL_BYTES));
        let whole = whole.unwrap();
        assert!(serde_json::from_slice::<Value>(&whole.text).unwrap() == items(MAX_DETAIL_BYTES));
        let named = json!({ "truncated": true, "whole": whole.sha1, "bytes": whole.text.len() });
        for key in ["truncated", "whole", "bytes"] {
            assert_eq!(held[key], named[key], "{key}");
        }
        assert!(held.to_string().len() <= MAX_DETAIL_BYTES + 200 && held["items"][0]["text"].is_string());
        let (held, whole) = input(&items(MAX_WHOLE_BYTES));
        assert!(whole.is_none() && held["truncated"] == true && held["whole"].is_null());
    }

    #[test]
    fn what_fits_is_left_alone() {
        assert_eq!(Value::Object(cut(json!({"a": "é"}), 100)), json!({"a": "é"}));
    }

    #[test]
    fn long_strings_end_and_say_so() {
        let object = cut(json!({"turnId": "u", "turn": {"items": [{"text": "é".repeat(5000)}]}}), 2000);
        assert!(size(&object) < 2100, "{}", size(&object));
        assert_eq!((&object["turnId"], &object["truncated"]), (&json!("u"), &json!(true)));
        assert!(object["turn"]["items"][0]["text"].as_str().unwrap().starts_with("éé"));
        assert!(object["bytes"].as_u64().unwrap() > 10_000);
    }

    #[test]
    fn many_small_things_leave_what_the_state_needs() {
        let items: Vec<_> = (0..5000).map(|n| json!({"type": "x", "id": n})).collect();
        let object =
            cut(json!({"turnId": "u", "turn": {"id": "u", "status": "failed", "items": items}}), 2000);
        assert!(size(&object) <= 2100, "{}", size(&object));
        assert_eq!((&object["turnId"], &object["turn"]["status"]), (&json!("u"), &json!("failed")));
        let many: Map<_, _> = (0..5000).map(|n| (format!("key{n}"), json!(n))).collect();
        let object = cut(Value::Object(many), 2000);
        assert_eq!(object.keys().collect::<Vec<_>>(), ["bytes", "truncated"]);
    }
}
