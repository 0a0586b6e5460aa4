//! Events, items and what an agent asks, in the words of somebody who watches.
//!
//! What the child says may have any form: what is not there is not told.

use serde_json::Value;

/// An event in half a line; nothing where its type has said all.
pub(super) fn event(event: &Value) -> String {
    let detail = &event["detail"];
    let message = || {
        let message = event["message"].as_str().unwrap_or_default();
        if message.starts_with("app-server sent ") { String::new() } else { message.to_owned() }
    };
    match event["type"].as_str().unwrap_or_default() {
        "app-server.item.started" | "app-server.item.completed" => {
            let (kind, words) = (detail["item"]["type"].as_str().unwrap_or("item"), item(&detail["item"]));
            words.map_or_else(|| kind.to_owned(), |words| format!("{kind}: {words}"))
        }
        "app-server.turn.completed" => {
            end(event).map_or_else(message, |(status, why)| with_reason(&status, why))
        }
        "approval.requested" => {
            let id = detail["approvalId"].as_str().unwrap_or_default();
            format!("{id} waits: {}", asked(&detail["request"]).join("; "))
        }
        "app-server.error" => detail["error"]["message"].as_str().map_or_else(message, str::to_owned),
        // A piece of something: a message, an output, a plan.
        _ => detail["delta"].as_str().map_or_else(message, str::to_owned),
    }
}

/// What an item of a turn is, and how it ended.
pub(super) fn item(item: &Value) -> Option<String> {
    let what = match item["type"].as_str()? {
        "agentMessage" => return item["text"].as_str().map(str::to_owned),
        "commandExecution" => format!("$ {}", command(&item["command"])?),
        "fileChange" => changes(&item["changes"]),
        _ => return None,
    };
    let status = item["status"].as_str().filter(|status| !matches!(*status, "inProgress" | "completed"));
    Some(match (item["exitCode"].as_i64(), status) {
        (Some(code), _) if code != 0 => format!("{what} (exit {code})"),
        (_, Some(status)) => format!("{what} ({status})"),
        _ => what,
    })
}

/// What an approval is about, a line each.
pub(super) fn asked(request: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(command(&request["command"]).map(|command| format!("$ {command}")));
    lines.extend(request["cwd"].as_str().map(|cwd| format!("in {cwd}")));
    if request["changes"].is_array() {
        lines.push(changes(&request["changes"]));
    }
    for question in request["questions"].as_array().into_iter().flatten() {
        let options = question["options"].as_array().into_iter().flatten();
        let options: Vec<_> = options.filter_map(|option| option["label"].as_str()).collect();
        let id = question["id"].as_str().unwrap_or_default();
        let text = question["question"].as_str().unwrap_or_default();
        lines.push(format!("{id}: {text} [{}]", options.join(" | ")));
    }
    lines.extend(request["reason"].as_str().map(|reason| format!("because: {reason}")));
    lines
}

/// How a turn ends with this event, and why, if one does.
pub(super) fn end(event: &Value) -> Option<(String, Option<String>)> {
    let (detail, text) = (&event["detail"], |value: &Value| value.as_str().map(str::to_owned));
    let (status, why) = match event["type"].as_str()? {
        "app-server.turn.completed" => {
            (text(&detail["turn"]["status"])?, text(&detail["turn"]["error"]["message"]))
        }
        "turn.interrupted" => ("interrupted".to_owned(), text(&detail["reason"])),
        "turn.settled" => (text(&detail["status"])?, None),
        _ => return None,
    };
    // What was settled may run on.
    is_over(&status).then_some((status, why))
}

/// Whether a turn of this status has ended.
pub(super) fn is_over(status: &str) -> bool {
    !matches!(status, "accepted" | "inProgress")
}

/// A status, and what it is owed to.
pub(super) fn with_reason(status: &str, why: Option<String>) -> String {
    why.map_or_else(|| status.to_owned(), |why| format!("{status}: {why}"))
}

fn command(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(words) => Some(words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

fn changes(changes: &Value) -> String {
    let files: Vec<_> =
        changes.as_array().into_iter().flatten().filter_map(|change| change["path"].as_str()).collect();
    format!("changes {}", files.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_happens_is_told_in_words() {
        let told =
            |kind: &str, detail: Value| event(&json!({"type": kind, "message": "m", "detail": detail}));
        let command =
            json!({"type": "commandExecution", "command": "make", "status": "failed", "exitCode": 2});
        assert_eq!(
            told("app-server.item.completed", json!({"item": command})),
            "commandExecution: $ make (exit 2)"
        );
        let declined =
            json!({"type": "fileChange", "changes": [{"path": "/a"}, {"path": "/b"}], "status": "declined"});
        assert_eq!(
            told("app-server.item.completed", json!({"item": declined})),
            "fileChange: changes /a, /b (declined)"
        );
        assert_eq!(told("app-server.item.started", json!({"item": {"type": "plan"}})), "plan");
        assert_eq!(told("app-server.item.started", json!({"item": 7})), "item");
        let request = json!({"command": ["rm", "x"], "cwd": "/w", "reason": "r"});
        let waits = json!({"approvalId": "a-1", "request": request});
        assert_eq!(told("approval.requested", waits), "a-1 waits: $ rm x; in /w; because: r");
        let failed = json!({"turn": {"status": "failed", "error": {"message": "no model"}}});
        assert_eq!(told("app-server.turn.completed", failed), "failed: no model");
        assert_eq!(told("app-server.turn.completed", json!({})), "m");
        assert_eq!(told("app-server.turn.message.delta", json!({"delta": "hi"})), "hi");
        assert_eq!(told("turn.accepted", json!({})), "m");
    }

    #[test]
    fn a_turn_that_runs_on_has_not_ended() {
        let settled = |status: &str| end(&json!({"type": "turn.settled", "detail": {"status": status}}));
        assert_eq!((settled("inProgress"), settled("failed")), (None, Some(("failed".to_owned(), None))));
    }

    #[test]
    fn a_question_shows_its_choices() {
        let question = json!({"id": "q", "question": "Which?", "options": [{"label": "a"}, {"label": "b"}]});
        assert_eq!(asked(&json!({"questions": [question]})), ["q: Which? [a | b]"]);
    }
}
