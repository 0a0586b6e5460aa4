use super::notice::TurnEnd;
use super::*;
use crate::state::Key;
use common::log::Seq;
use serde_json::json;

fn key() -> Key {
    Key { hash: "h".into(), body: "b".into() }
}

fn events() -> Vec<Event> {
    let ids = || ("session-1".to_owned(), "t".to_owned());
    let text = || "why \"so\"\n".to_owned();
    let settings =
        Settings { cwd: Some("/w".into()), sandbox: json!({"type": "readOnly"}), ..Settings::default() };
    let (session_id, thread_id) = ids();
    let created = SessionCreated {
        session_id,
        thread_id,
        purpose: "duplex".into(),
        ephemeral: false,
        metadata: json!({"a": [1, null]}),
        settings: settings.clone(),
        origin: Map::new(),
        key: Some(key()),
    };
    let with_ids = |make: fn(String, String) -> Event| make(ids().0, ids().1);
    vec![
        Event::LogCreated { log_id: "abc".into() },
        Event::DaemonStarted {
            pid: 1,
            process_mark: "m".into(),
            process_started_at: Timestamp::from_millis(1),
            version: "0".into(),
        },
        Event::DaemonStopping { reason: text() },
        Event::ChildSpawned { epoch: 1, pid: 2, process_mark: "m".into() },
        Event::ChildReady {
            epoch: 1,
            version: None,
            user_agent: "x".into(),
            login_required: true,
            warning: Some("old".into()),
        },
        Event::ChildExited { epoch: 1, reason: text(), retry_in_ms: None },
        Event::ChildFailed { epoch: 1, reason: text(), retry_in_ms: 5 },
        Event::ChildLineDropped { epoch: 1, bytes: u64::MAX },
        Event::ChildRequestRefused {
            epoch: 1,
            method: "x/y".into(),
            session_id: Some("s".into()),
            thread_id: None,
            turn_id: Some("u".into()),
        },
        Event::SessionCreated(Box::new(created)),
        Event::SessionResumed {
            session_id: ids().0,
            thread_id: "t2".into(),
            previous_thread_id: "t".into(),
            settings: Box::new(settings.clone()),
        },
        with_ids(|session_id, thread_id| Event::SessionClosed {
            session_id,
            thread_id,
            reason: "done".into(),
        }),
        with_ids(|session_id, thread_id| Event::SessionRemoved { session_id, thread_id }),
        Event::TurnRequested(Box::new(TurnRequested {
            session_id: ids().0,
            thread_id: ids().1,
            client_turn_id: "c".into(),
            changes: settings,
            input: json!([{"type": "text"}]),
            timeout_ms: Some(5),
            key: None,
        })),
        Event::ChildConnected { epoch: 1, endpoint: "ws://x".into() },
        with_ids(|session_id, thread_id| Event::TurnInterruptRequested {
            session_id,
            thread_id,
            turn_id: None,
            reason: "why".into(),
        }),
        with_ids(|session_id, thread_id| Event::ItemClosed {
            session_id,
            thread_id,
            turn_id: Some("u".into()),
            item_id: "i".into(),
            reason: "why".into(),
        }),
        with_ids(|session_id, thread_id| Event::TranscriptRemoved { session_id, thread_id, bytes: 7 }),
        with_ids(|session_id, thread_id| {
            Event::ApprovalRequested(Box::new(ApprovalRequested {
                approval_id: "approval-1".into(),
                kind: ApprovalKind::FileChange,
                session_id,
                thread_id,
                turn_id: None,
                item_id: Some("i".into()),
                request_id: json!(0),
                epoch: 1,
                deadline_at: Timestamp::from_millis(9),
                request: Map::new(),
            }))
        }),
        with_ids(|session_id, thread_id| Event::ApprovalResolved {
            approval_id: "approval-1".into(),
            session_id: Some(session_id),
            thread_id: Some(thread_id),
            turn_id: None,
            resolution: Resolution::Answered,
            decision: Some("accept".into()),
            answers: None,
            execpolicy_amendment: Some(json!(["touch"])),
            reason: None,
        }),
        with_ids(|session_id, thread_id| Event::TurnAccepted { session_id, thread_id, turn_id: "u".into() }),
        with_ids(|session_id, thread_id| Event::TurnRefused { session_id, thread_id, reason: "no".into() }),
        with_ids(|session_id, thread_id| Event::TurnSteered {
            session_id,
            thread_id,
            turn_id: "u".into(),
            input: Value::Null,
            key: Some(key()),
        }),
        with_ids(|session_id, thread_id| {
            let status = TurnStatus::Failed;
            Event::TurnSettled { session_id, thread_id, turn_id: "u".into(), status }
        }),
        with_ids(|session_id, thread_id| Event::TurnInterrupted {
            session_id,
            thread_id,
            turn_id: None,
            reason: "gone".into(),
        }),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    for (index, event) in events().into_iter().enumerate() {
        let record = Record { seq: index as Seq + 1, at: Timestamp::from_millis(1), event };
        let line = render(&record);
        assert!(line.starts_with(&format!("{{\"seq\":{},\"createdAt\":\"", record.seq)), "{line}");
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(parse(&line), Ok(record), "{line}");
    }
}

#[test]
fn a_notification_keeps_what_the_state_needs() {
    let detail =
        json!({"threadId": "t", "turn": {"id": "u", "status": "failed", "error": {"message": "m"}, "x": 1}});
    let mut notice = Notice::new("turn/completed".into(), detail.as_object().unwrap().clone());
    notice.detail.insert("sessionId".into(), "s".into());
    let record = Record { seq: 7, at: Timestamp::from_millis(1), event: Event::App(notice) };
    let line = render(&record);
    assert!(
        line.contains("\"type\":\"app-server.turn.completed\"") && line.contains("\"turnId\":\"u\""),
        "{line}"
    );
    let Ok(Record { event: Event::App(read), .. }) = parse(&line) else { panic!("{line}") };
    let end = TurnEnd { status: TurnStatus::Failed, error: Some("m".into()) };
    assert_eq!(
        (read.method.as_str(), read.session_id.as_deref(), read.end),
        ("turn/completed", Some("s"), Some(end))
    );
    let delta = Notice::new("item/agentMessage/delta".into(), Map::new());
    let line = render(&Record { seq: 8, at: Timestamp::from_millis(1), event: Event::App(delta) });
    assert!(line.contains("\"level\":\"debug\",\"type\":\"app-server.turn.message.delta\""), "{line}");
}

#[test]
fn ids_of_a_wrong_type_are_no_ids_live_and_in_replay() {
    let odd = [
        json!({"threadId": 7, "turnId": null}),
        json!({"threadId": "t", "item": "abc", "turn": [1]}),
        json!({"thread": {"id": {}}, "turn": {"id": "u", "status": "odd", "error": "text"}}),
        json!({"threadId": "t", "turn": {"status": 5, "error": {"message": 1}}}),
    ];
    for detail in odd {
        for method in ["x/y", "turn/completed", "", "a.b", "turn.message.delta"] {
            let live = Notice::new(method.to_owned(), detail.as_object().unwrap().clone());
            let (thread_id, turn_id, end) = (live.thread_id.clone(), live.turn_id.clone(), live.end.clone());
            let line = render(&Record { seq: 1, at: Timestamp::from_millis(1), event: Event::App(live) });
            let Ok(Record { event: Event::App(read), .. }) = parse(&line) else { panic!("{line}") };
            assert_eq!((read.thread_id, read.turn_id, read.end), (thread_id, turn_id, end), "{line}");
        }
    }
}

#[test]
fn an_event_of_a_newer_version_changes_nothing_and_a_broken_one_is_an_error() {
    let line = |kind: &str| {
        format!(
            "{{\"seq\":1,\"createdAt\":\"2026-01-01T00:00:00.000Z\",\"type\":\"{kind}\",\"detail\":{{}}}}"
        )
    };
    assert_eq!(parse(&line("session.sung")).map(|record| record.event), Ok(Event::Other));
    assert!(parse(&line("turn.accepted")).is_err());
    assert!(parse("{\"seq\":1").is_err());
}
