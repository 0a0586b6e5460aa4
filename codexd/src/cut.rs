//! Makes a JSON object small: long strings end early, and it says so.

use serde_json::{Map, Value};

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
        }
        Value::Array(values) => {
            values.truncate(most);
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
