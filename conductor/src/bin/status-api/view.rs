//! What of the sources' answers is shown: few fields of each thing, short texts, the newest first.
//!
//! Pure, and trusts nothing: what is missing or of another type is `null`, a missing list is empty.

use std::cmp::Reverse;

use common::wire::Object;
use serde_json::{Value, json};

/// Facts of codexd, beside `ok`, `age_ms` and `error`.
pub(crate) const CODEXD: &[&str] = &[
    "base_url",
    "identity",
    "daemon",
    "disk",
    "session_count",
    "active_count",
    "sessions",
    "recent_events",
    "approvals",
];
/// Facts of the queue.
pub(crate) const QUEUE: &[&str] = &["mode", "queued_tasks", "active_runs", "drained", "tasks", "runs"];

/// Events shown: what a person reads of a night; all are in codexd's `events`.
const MAX_EVENTS: usize = 100;
/// Approvals shown, those that end first: nobody answers more by hand.
const MAX_APPROVALS: usize = 50;
/// Tasks shown: what runs and waits, and what became of a night.
const MAX_TASKS: usize = 60;
/// One text of a session or an approval: enough for a command line or a question.
const MAX_TEXT_CHARS: usize = 600;
/// Items of one list within an approval or metadata.
const MAX_ITEMS: usize = 20;
/// Objects within objects; a question has its options four down.
const MAX_DEPTH: usize = 5;

const SESSION: &[&str] = &[
    "sessionId",
    "purpose",
    "status",
    "cwd",
    "model",
    "currentTurnId",
    "lastTurnId",
    "lastTurnStatus",
    "createdAt",
    "updatedAt",
    "metadata",
];
const APPROVAL: &[&str] =
    &["approvalId", "kind", "sessionId", "turnId", "itemId", "requestedAt", "deadlineAt", "request"];
const TASK: &[&str] = &[
    "task_id",
    "title",
    "status",
    "canceling",
    "priority",
    "step_index",
    "attempts",
    "failures",
    "max_attempts",
    "not_before",
    "created_at",
    "updated_at",
    "started_at",
    "finished_at",
    "error",
    "run_id",
];
const RUN: &[&str] = &[
    "run_id",
    "task_id",
    "attempt",
    "status",
    "session_id",
    "step_index",
    "last_line",
    "started_at",
    "finished_at",
    "error",
];

/// codexd's status and approvals.
pub(crate) fn codexd(status: &Value, approvals: Option<&Value>) -> Object {
    let snapshot = &status["snapshot"];
    let registry = &snapshot["sessionRegistry"];
    let mut sessions: Vec<&Value> = list(&registry["sessions"]).iter().collect();
    // What runs first, then what moved last. The times sort as texts.
    sessions.sort_by_key(|it| Reverse((!it["currentTurnId"].is_null(), it["updatedAt"].as_str())));
    let mut waiting: Vec<&Value> =
        approvals.map_or(&[][..], |data| list(&data["approvals"])).iter().collect();
    waiting.sort_by_key(|approval| approval["deadlineAt"].as_str());
    let events = list(&snapshot["recentEvents"]["events"])
        .iter()
        .rev()
        .filter(|it| tells(it))
        .take(MAX_EVENTS)
        .map(event);
    object(json!({
        "identity": short(&snapshot["identity"], MAX_DEPTH),
        "daemon": short(&snapshot["daemon"], MAX_DEPTH),
        "disk": short(&snapshot["disk"], MAX_DEPTH),
        "session_count": registry["count"].as_u64(),
        "active_count": registry["activeCount"].as_u64(),
        "sessions": sessions.into_iter().map(|session| pick(session, SESSION, 1)).collect::<Vec<_>>(),
        "recent_events": events.collect::<Vec<_>>(),
        "approvals": waiting.into_iter().take(MAX_APPROVALS).map(|it| pick(it, APPROVAL, MAX_DEPTH)).collect::<Vec<_>>(),
    }))
}

/// The queue, from conductor's system state, pages of tasks, and runs.
pub(crate) fn queue(system: &Value, pages: &[Value], runs: Option<&Value>) -> Object {
    let runs = runs.map_or(&[][..], |data| list(&data["runs"])).iter().map(|run| pick(run, RUN, 1));
    let mut tasks: Vec<&Value> = pages.iter().flat_map(|page| list(&page["tasks"])).collect();
    // What runs, then what waits, then what ended last. The times sort as texts.
    let rank = |task: &Value| match task["status"].as_str() {
        Some("running") => 0,
        Some("queued") => 1,
        _ => 2,
    };
    tasks.sort_by_key(|task| (rank(task), Reverse(task["finished_at"].as_str())));
    let tasks = tasks.into_iter().take(MAX_TASKS).map(task);
    let mut facts = object(json!({ "tasks": tasks.collect::<Vec<_>>(), "runs": runs.collect::<Vec<_>>() }));
    facts.extend(object(pick(system, &["mode", "queued_tasks", "active_runs", "drained"], 1)));
    facts
}

/// A task without its steps, but for how many there are, and the first for one without a title.
fn task(task: &Value) -> Value {
    let steps = list(&task["steps"]);
    let mut view = object(pick(task, TASK, 1));
    view.insert("step_count".into(), json!(steps.len()));
    if let (Value::Null, Some(first)) = (&task["title"], steps.first()) {
        let said = [&first["input"], &first["command"]].into_iter().find(|said| said.is_string());
        view.insert("title".into(), said.map_or(Value::Null, |said| short(said, 1)));
    }
    Value::Object(view)
}

/// Whether an event tells a person what happened. The child's own are steps on the way, but for the end of a turn.
fn tells(event: &Value) -> bool {
    let kind = event["type"].as_str().unwrap_or_default();
    let step =
        kind == "turn.requested" || kind.starts_with("app-server.") && kind != "app-server.turn.completed";
    !step || matches!(event["level"].as_str(), Some("warn" | "error"))
}

/// An event without its detail, but for what one asks first: whose it is, how it ended, and why.
fn event(event: &Value) -> Value {
    let detail = &event["detail"];
    let first = |found: &[&Value]| {
        found.iter().find(|value| value.is_string()).map_or(Value::Null, |value| short(value, 1))
    };
    let mut view = object(pick(event, &["seq", "createdAt", "level", "type", "message"], 1));
    view.insert("sessionId".into(), first(&[&detail["sessionId"]]));
    view.insert("turnId".into(), first(&[&detail["turnId"]]));
    view.insert(
        "status".into(),
        first(&[&detail["turn"]["status"], &detail["resolution"], &detail["status"]]),
    );
    let reasons = [
        &detail["reason"],
        &detail["turn"]["error"]["message"],
        &detail["error"]["message"],
        &detail["error"],
    ];
    view.insert("reason".into(), first(&reasons));
    Value::Object(view)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn pick(from: &Value, fields: &[&str], depth: usize) -> Value {
    fields.iter().map(|field| ((*field).to_string(), short(&from[*field], depth))).collect()
}

/// The same with texts, lists and depth within their bounds.
fn short(value: &Value, depth: usize) -> Value {
    match value {
        Value::String(text) => match text.char_indices().nth(MAX_TEXT_CHARS) {
            Some((end, _)) => json!(format!("{}\u{2026}", &text[..end])),
            None => value.clone(),
        },
        Value::Array(_) | Value::Object(_) if depth == 0 => Value::Null,
        Value::Array(items) => items.iter().take(MAX_ITEMS).map(|item| short(item, depth - 1)).collect(),
        Value::Object(map) => {
            map.iter().take(MAX_ITEMS).map(|(key, item)| (key.clone(), short(item, depth - 1))).collect()
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_makes_no_sense_is_shown_as_nothing() {
        for status in
            [json!(null), json!([]), json!({"snapshot": {"sessionRegistry": {"sessions": {"a": 1}}}})]
        {
            let mut shown = codexd(&status, Some(&json!({"approvals": 7})));
            shown.insert("base_url".into(), Value::Null);
            assert_eq!(shown.keys().map(String::as_str).collect::<Vec<_>>().len(), CODEXD.len());
            assert!(CODEXD.iter().all(|key| shown.contains_key(*key)));
            assert_eq!(
                (&shown["sessions"], &shown["approvals"], &shown["daemon"]),
                (&json!([]), &json!([]), &json!(null))
            );
        }
        let shown = queue(&json!(1), &[json!({"tasks": 1}), json!(7)], Some(&json!({"runs": [1]})));
        assert!(QUEUE.iter().all(|key| shown.contains_key(*key)) && shown.len() == QUEUE.len());
        assert_eq!((&shown["tasks"], &shown["runs"][0]["run_id"]), (&json!([]), &json!(null)));
    }

    #[test]
    fn what_runs_comes_first_then_what_moved_last() {
        let session = |id: &str, turn: Option<&str>, at: &str| json!({"sessionId": id, "currentTurnId": turn, "updatedAt": at});
        let sessions = [session("a", None, "1"), session("b", Some("t"), "0"), session("c", None, "2")];
        let shown = codexd(&json!({"snapshot": {"sessionRegistry": {"sessions": sessions}}}), None);
        let order: Vec<_> = shown["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["sessionId"].as_str().unwrap())
            .collect();
        assert_eq!(order, ["b", "c", "a"]);
    }

    #[test]
    fn what_runs_comes_before_what_waits_and_what_ended_last() {
        let task = |id: &str, status: &str, end: Option<&str>| json!({"task_id": id, "status": status, "finished_at": end});
        let waits = json!({"task_id": "w", "status": "queued", "title": null, "steps": [{"kind": "codex", "input": "Do it."}, {}]});
        let page = |tasks: &[Value]| json!({"tasks": tasks});
        let pages = [
            page(&[waits]),
            page(&[task("old", "completed", Some("1")), task("new", "failed", Some("2"))]),
            page(&[task("runs", "running", None)]),
        ];
        let shown = queue(&json!({}), &pages, None);
        let tasks = shown["tasks"].as_array().unwrap();
        let order: Vec<_> = tasks.iter().map(|it| it["task_id"].as_str().unwrap()).collect();
        assert_eq!(order, ["runs", "w", "new", "old"]);
        assert_eq!((&tasks[1]["title"], &tasks[1]["step_count"]), (&json!("Do it."), &json!(2)));
    }

    #[test]
    fn an_event_says_whose_it_is_how_it_ended_and_why() {
        let seen = event(&json!({"seq": 7, "type": "app-server.turn.completed", "detail":
            {"sessionId": "s", "turnId": "t", "turn": {"status": "failed", "error": {"message": "no model"}}}}));
        assert_eq!(
            (&seen["sessionId"], &seen["status"], &seen["reason"]),
            (&json!("s"), &json!("failed"), &json!("no model"))
        );
        assert_eq!((&seen["level"], seen.get("detail")), (&json!(null), None));
    }

    #[test]
    fn steps_on_the_way_are_left_out() {
        let shown = |kind: &str, level: &str| tells(&json!({"type": kind, "level": level}));
        assert!(shown("turn.accepted", "info") && shown("app-server.turn.completed", "info"));
        assert!(!shown("turn.requested", "info") && !shown("app-server.item.started", "info"));
        assert!(shown("app-server.item.started", "warn") && shown("app-server.error", "error"));
    }

    #[test]
    fn everything_has_a_bound() {
        let long = "\u{e9}".repeat(1000);
        let deep = json!({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}});
        let approval = json!({"request": {"command": long, "many": vec![deep; 30]}});
        let events =
            json!({"events": vec![json!({"type": "a", "message": long, "detail": {"reason": long}}); 200]});
        let status = json!({"snapshot": {"recentEvents": events}});
        let shown = codexd(&status, Some(&json!({"approvals": vec![approval; 256]})));
        assert_eq!(shown["recent_events"].as_array().unwrap().len(), MAX_EVENTS);
        assert_eq!(shown["approvals"].as_array().unwrap().len(), MAX_APPROVALS);
        let request = &shown["approvals"][0]["request"];
        assert_eq!(request["command"].as_str().unwrap().chars().count(), MAX_TEXT_CHARS + 1);
        assert_eq!(request["many"].as_array().unwrap().len(), MAX_ITEMS);
        assert_eq!(request["many"][0], json!({"a": {"b": {"c": null}}}));
    }
}
