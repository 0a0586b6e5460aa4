use super::*;

#[test]
fn lines_are_told_apart() {
    let kinds = [
        (
            r#"{"id":3,"result":{"thread":{"id":"t","turns":[{"id":"u"},{"id":"v","items":[{"clientId":"c","text":"x"}]}]}}}"#,
            "answer 3 {\"thread\":{\"id\":\"t\",\"turns\":[{\"id\":\"v\",\"items\":[{\"clientId\":\"c\"}]}]}}",
        ),
        (r#"{"id":4,"error":{"code":-32600,"message":"no"}}"#, "error 4 -32600 no"),
        (
            r#"{"method":"turn/started","params":{"threadId":"t","turn":{"id":"u"}},"emittedAtMs":1}"#,
            "notice turn/started t u",
        ),
        (r#"{"method":"item/x","id":0,"params":{"threadId":"t","turnId":"u"}}"#, "asked 0 item/x t u"),
        (r#"{"method":"item/x","id":"a"}"#, "asked \"a\" item/x - -"),
        (r#"{"method":"thread/started","params":{"thread":{"id":"t"}}}"#, "notice thread/started t -"),
        (r#"{"method":"x","params":{"threadId":7}}"#, "notice x - -"),
        ("hello", "no"),
        ("[1]", "no"),
        (r#"{"id":1}"#, "no"),
        (r#"{"method":5}"#, "no"),
        (r#"{"id":"mine","result":1}"#, "no"),
    ];
    for (line, expected) in kinds {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let found = match parse(line.as_bytes()) {
            None => "no".to_owned(),
            Some(FromChild::Answer { rpc, result: Ok(value) }) => format!("answer {rpc} {value}"),
            Some(FromChild::Answer { rpc, result: Err(e) }) => {
                format!("error {rpc} {} {}", e.code, e.message)
            }
            Some(FromChild::Notice(n)) => {
                format!("notice {} {} {}", n.method, dash(&n.thread_id), dash(&n.turn_id))
            }
            Some(FromChild::Asked { id, notice }) => {
                let Notice { method, thread_id, turn_id, .. } = *notice;
                format!("asked {id} {method} {} {}", dash(&thread_id), dash(&turn_id))
            }
            other => format!("{other:?}"),
        };
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn a_turn_runs_only_in_a_thread_that_is_active() {
    use TurnStatus::{Completed, InProgress, Interrupted};
    for (thread, turn, expected) in [
        ("active", "inProgress", InProgress),
        ("idle", "inProgress", Interrupted),
        ("notLoaded", "inProgress", Interrupted),
        ("idle", "completed", Completed),
    ] {
        let turns = json!([{ "id": "u", "status": turn }]);
        let answer = json!({ "thread": { "status": { "type": thread }, "turns": turns } });
        assert_eq!(past_turn(&answer).map(|turn| turn.status), Some(expected), "{thread} {turn}");
    }
    let listed = json!({ "data": [{ "id": "u", "status": "inProgress" }] });
    assert_eq!(past_turn(&listed).map(|turn| turn.status), Some(InProgress), "nobody says how its thread is");
}

#[test]
fn what_old_versions_say_twice_is_known_by_how_it_begins() {
    let line = |method: &str| format!(r#"{{"method":"{method}","params":{{"conversationId":"t"}}}}"#);
    let legacy = ["codex/event/task_started", "codex/event/", "codex/events", "turn/started"]
        .map(|method| is_legacy(line(method).as_bytes()));
    assert_eq!(legacy, [true, true, false, false]);
}

#[test]
fn a_line_that_asks_for_too_much_is_dropped() {
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    let deep = format!("{}{}", "[".repeat(wire::MAX_DEPTH), "]".repeat(wire::MAX_DEPTH));
    let lines = [
        format!("{{\"method\":\"{long}\"}}"),
        format!("{{\"method\":\"x\",\"id\":\"{long}\"}}"),
        format!("{{\"method\":\"x\",\"params\":{{\"a\":{deep}}}}}"),
        format!("{{\"method\":\"x\",\"params\":{{\"a\":[{}0]}}}}", "0,".repeat(MAX_LINE_ELEMENTS)),
    ];
    for line in lines {
        assert!(matches!(parse(line.as_bytes()), Some(FromChild::LineDropped { .. })), "{:.80}", line);
    }
}

#[test]
fn the_end_of_a_turn_survives_the_cut() {
    let items: Vec<_> =
        (0..5000).map(|n| json!({"type": "commandExecution", "id": n, "command": "ls"})).collect();
    let turn = json!({"id": "u", "items": items, "status": "failed", "error": {"message": "m"}});
    let line = json!({"method": "turn/completed", "params": {"threadId": "t", "turn": turn}}).to_string();
    let Some(FromChild::Notice(notice)) = parse(line.as_bytes()) else { panic!() };
    assert!(cut::size(&notice.detail) <= MAX_DETAIL_BYTES + 100 && notice.detail["truncated"] == true);
    // What is written down is what counts.
    let read = Notice::new(notice.method.clone(), notice.detail.clone());
    assert_eq!((read.turn_id.as_deref(), &read.end), (Some("u"), &notice.end));
    assert_eq!(read.end.map(|end| end.status), Some(TurnStatus::Failed));
}

#[test]
fn an_item_that_is_cut_is_kept_whole_up_to_a_bound() {
    let kept = |method: &str, bytes: usize| {
        let params = json!({"threadId": "t", "turnId": "u", "item": {"id": "i", "text": "x".repeat(bytes)}});
        let line = json!({ "method": method, "params": params }).to_string();
        let Some(FromChild::Notice(notice)) = parse(line.as_bytes()) else { panic!() };
        let name = notice.detail.get("whole").cloned();
        notice.whole.map(|whole| {
            assert_eq!(name, Some(whole.sha1.clone().into()));
            assert!(serde_json::from_slice::<Value>(&whole.text).unwrap() == params);
            assert!(notice.bytes >= whole.text.len(), "it counts");
        })
    };
    assert_eq!(kept("item/completed", MAX_DETAIL_BYTES - 1000), None);
    assert_eq!(kept("item/completed", MAX_DETAIL_BYTES), Some(()));
    assert_eq!(kept("item/completed", MAX_WHOLE_BYTES - 1000), Some(()));
    assert_eq!(kept("item/completed", MAX_WHOLE_BYTES), None);
    assert_eq!(kept("turn/completed", MAX_DETAIL_BYTES), None, "its items were told before");
}

#[test]
fn versions_are_read_from_the_user_agent() {
    let cases = [
        ("codexd/0.169.0 (Debian 12.0.0; x86_64) xterm", Some("0.169.0")),
        ("codexd/0.170.0-alpha.3 (x)", Some("0.170.0")),
        ("codexd/dev", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(version(text).as_deref(), expected, "{text}");
    }
    let old = ["0.100.9", "0.99.0", "0.101.0", "0.169.0", "1.0.0"].map(|version| is_below(version, OLDEST));
    assert_eq!(old, [true, true, false, false, false]);
}

#[test]
fn a_login_is_missing_only_where_one_is_wanted() {
    assert!(login_required(&json!({ "account": null, "requiresOpenaiAuth": true })));
    assert!(!login_required(&json!({ "account": null, "requiresOpenaiAuth": false })));
    assert!(!login_required(&json!({ "account": { "type": "chatgpt" }, "requiresOpenaiAuth": true })));
}

#[test]
fn a_thread_that_was_never_written_is_known_by_what_the_child_says() {
    let cases = [
        ("no rollout found for thread id 01", true, true, false),
        ("thread not loaded: 01", false, true, false),
        ("thread 01 is not materialized yet; x", false, true, false),
        ("failed to load rollout `/h/r.jsonl`: empty session file", true, true, true),
        ("failed to read thread: x /h/r.jsonl: rollout at /h/r.jsonl is empty", true, true, true),
        ("failed to read thread: disk on fire", false, false, false),
    ];
    for (message, unknown, no_turn, empty) in cases {
        let error = RpcError { code: -32600, message: message.to_owned() };
        let found = (error.is_unknown_thread(), error.is_no_turn_yet(), error.is_empty_thread());
        assert_eq!(found, (unknown, no_turn, empty), "{message}");
    }
}
