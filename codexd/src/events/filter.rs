//! Which events a reader wants.

use std::borrow::Cow;

use common::http::Request;
use common::{Error, wire};
use serde::Deserialize;
use serde_json::Value;

/// What an event must have; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    session_id: Option<String>,
    turn_id: Option<String>,
    kind: Option<Kind>,
    /// What the line of such an event contains. A quote inside of a JSON string is escaped, so these bytes occur only as
    /// a real key with its value, if perhaps as a deeper one.
    needles: Vec<String>,
}

/// A type, or the beginning of one with its dot.
#[derive(Clone, Debug)]
enum Kind {
    Is(String),
    BeginsWith(String),
}

impl Filter {
    /// Reads the query.
    ///
    /// # Errors
    /// `invalid_request` if `type` is neither a full type nor a prefix that ends in `.*`.
    pub fn read(request: &Request) -> Result<Filter, Error> {
        let session_id = request.query_value("sessionId").map(str::to_owned);
        Ok(Filter::new(session_id, None, request.query_value("type").map(kind).transpose()?))
    }

    /// The events of one turn.
    pub fn of_turn(turn_id: String) -> Filter {
        Filter::new(None, Some(turn_id), None)
    }

    /// The events of one type, or of a prefix.
    #[cfg(test)]
    pub fn of_type(text: &str) -> Result<Filter, Error> {
        Ok(Filter::new(None, None, Some(kind(text)?)))
    }

    fn new(session_id: Option<String>, turn_id: Option<String>, kind: Option<Kind>) -> Filter {
        let member = |key: &str, value: &str| format!("\"{key}\":{}", Value::from(value));
        let ids = [("sessionId", &session_id), ("turnId", &turn_id)];
        let ids = ids.into_iter().filter_map(|(key, id)| Some(member(key, id.as_deref()?)));
        let kind_needle = kind.as_ref().map(|kind| match kind {
            Kind::Is(whole) => member("type", whole),
            Kind::BeginsWith(prefix) => member("type", prefix).trim_end_matches('"').to_owned(),
        });
        let needles = ids.chain(kind_needle).collect();
        Filter { session_id, turn_id, kind, needles }
    }

    /// Whether the event of this line is wanted. The bytes are looked for first, since most lines have none of them.
    pub fn takes(&self, line: &str) -> bool {
        if self.needles.is_empty() {
            return true;
        }
        if !self.needles.iter().all(|needle| line.contains(needle)) {
            return false;
        }
        let Ok(Event { kind, detail }) = serde_json::from_str(line) else { return false };
        let is = |wanted: &Option<String>, found: Option<Value>| match wanted {
            Some(id) => found.is_some_and(|found| found == id.as_str()),
            None => true,
        };
        is(&self.session_id, detail.session_id)
            && is(&self.turn_id, detail.turn_id)
            && match &self.kind {
                None => true,
                Some(Kind::Is(whole)) => kind == whole.as_str(),
                Some(Kind::BeginsWith(prefix)) => kind.starts_with(prefix.as_str()),
            }
    }
}

fn kind(text: &str) -> Result<Kind, Error> {
    let prefix = text.strip_suffix('*');
    let name = prefix.map_or(Some(text), |prefix| prefix.strip_suffix('.'));
    match name.filter(|name| !name.is_empty() && !name.contains('*')) {
        Some(_) => Ok(prefix.map_or(Kind::Is(text.to_owned()), |prefix| Kind::BeginsWith(prefix.to_owned()))),
        None => {
            let message =
                "Query value `type` must be a type of events, or the beginning of one that ends in `.*`.";
            Err(wire::invalid("type", message))
        }
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    detail: Detail,
}

/// What the child says may have any type.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Detail {
    session_id: Option<Value>,
    turn_id: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(kind: &str, detail: Value) -> String {
        format!(r#"{{"seq":1,"level":"info","type":{},"message":"m","detail":{detail}}}"#, Value::from(kind))
    }

    #[test]
    fn a_type_is_whole_or_a_prefix_up_to_a_dot() {
        for (wanted, taken, not) in [
            ("turn.accepted", &["turn.accepted"][..], &["turn.accepted.x", "x.turn.accepted", "turn"][..]),
            (
                "turn.*",
                &["turn.accepted", "turn.a.b"],
                &["turn", "turns.a", "app-server.turn.completed", "Turn.a"],
            ),
            (
                "app-server.item.*",
                &["app-server.item.started"],
                &["app-server.items", "app-server.turn.started"],
            ),
            ("a\"b\\.*", &["a\"b\\.c"], &["ab.c", "a.b"]),
            ("turn.*", &["turn.\u{e9}\"*"], &["\u{e9}"]),
        ] {
            let filter = Filter::of_type(wanted).unwrap();
            for name in taken {
                assert!(filter.takes(&line(name, json!({}))), "{wanted} {name}");
            }
            for name in not {
                assert!(!filter.takes(&line(name, json!({}))), "{wanted} {name}");
            }
            let deeper = json!({ "type": taken[0], "item": { "type": taken[0] } });
            assert!(!filter.takes(&line("other", deeper)), "{wanted} as the type of something deeper");
        }
    }

    #[test]
    fn what_is_no_type_is_refused_by_name() {
        for text in ["", "*", ".*", "**", "turn*", "*.turn", "turn.*.x", "tu*rn.*", "turn.**", "turn.* "] {
            let error = kind(text).unwrap_err();
            assert_eq!((error.code.status, error.details), (400, Some(json!({ "field": "type" }))), "{text}");
        }
    }

    #[test]
    fn every_thing_that_is_asked_for_must_be_there() {
        let filter =
            Filter::new(Some("s-1".into()), Some("t-1".into()), Some(kind("turn.accepted").unwrap()));
        let both = json!({ "sessionId": "s-1", "turnId": "t-1" });
        assert!(filter.takes(&line("turn.accepted", both.clone())));
        assert!(!filter.takes(&line("turn.steered", both)));
        for detail in [
            json!({ "sessionId": "s-1", "turnId": "t-2" }),
            json!({ "sessionId": "s-2", "turnId": "t-1" }),
            json!({ "turnId": "t-1" }),
            json!({ "sessionId": "s-1", "turnId": 1, "item": { "turnId": "t-1" } }),
            json!({ "metadata": { "sessionId": "s-1", "turnId": "t-1" } }),
            json!({ "text": "\"sessionId\":\"s-1\" \"turnId\":\"t-1\"" }),
        ] {
            assert!(!filter.takes(&line("turn.accepted", detail.clone())), "{detail}");
        }
        let odd = json!({ "sessionId": "s-1", "turnId": 7 });
        assert!(Filter::new(Some("s-1".into()), None, None).takes(&line("x", odd)), "others may be odd");
        assert!(Filter::default().takes("anything"));
    }
}
