use super::*;

fn object(value: Value) -> Object {
    value.as_object().unwrap().clone()
}

fn forwarded(given: Value) -> Value {
    Value::Object(forward(SessionCreate::FIELDS, object(given)))
}

#[test]
fn names_may_be_spelt_either_way_and_camel_case_wins() {
    assert_eq!(forwarded(json!({ "approval_policy": "never" })), json!({ "approvalPolicy": "never" }));
    assert_eq!(forwarded(json!({ "thread_id": "b", "threadId": "a" })), json!({ "threadId": "a" }));
    assert_eq!(forwarded(json!({ "thread_id": "b", "threadId": null })), json!({ "threadId": null }));
}

#[test]
fn nested_values_and_null_stay_and_the_unknown_goes() {
    let given = json!({ "config": { "a_b": null, "cD": [1, { "x_y": 2.5 }] }, "service_tier": null, "purpose": 7, "x": 1 });
    let expected =
        json!({ "config": { "a_b": null, "cD": [1, { "x_y": 2.5 }] }, "serviceTier": null, "purpose": 7 });
    assert_eq!(forwarded(given), expected);
}

#[test]
fn every_field_of_a_body_is_passed_on() {
    for fields in [SessionCreate::FIELDS, TurnCreate::FIELDS, ApprovalAnswer::FIELDS] {
        for spelling in [str::to_string, snake] {
            let given = fields.iter().map(|field| (spelling(field.name), json!(field.name))).collect();
            let passed = forward(fields, given);
            assert!(fields.iter().all(|field| passed[field.name] == field.name), "{passed:?}");
        }
    }
}

#[test]
fn query_values_may_be_spelt_either_way_too() {
    let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
    let given = [
        pair("session_id", "b"),
        pair("after", "3"),
        pair("x", "1"),
        pair("sessionId", "a"),
        pair("after", "4"),
    ];
    assert_eq!(forward_query(EVENTS_QUERY, &given), [("after", "3"), ("sessionId", "a")]);
}

#[test]
fn a_wait_is_bounded() {
    for (value, millis) in
        [("0", 0), ("250", 250), ("600000", 600_000), ("9000000000", 600_000), ("x", 0), ("-1", 0)]
    {
        assert_eq!(wait(&[("after", "1"), ("waitMs", value)]), Duration::from_millis(millis), "{value}");
    }
    assert_eq!(wait(&[]), Duration::ZERO);
}

#[test]
fn the_status_is_mapped_field_by_field() {
    let base = LocalUrl::parse("http://127.0.0.1:4319").unwrap();
    let active = json!({ "sessionId": "session-1", "status": "active" });
    let data = json!({
        "service": { "eventStreamUrl": "ws://x", "listening": true, "resolvedBaseUrl": "http://x", "websocketClients": 2 },
        "snapshot": {
            "identity": { "daemonId": "codexd-1", "nodeId": "mini", "repoRoot": "/r", "version": "1.2.3" },
            "daemon": {
                "started": true, "startedAt": "2026-03-23T00:00:00.000Z", "updatedAt": "2026-03-23T00:00:01.000Z",
                "child": { "endpoint": "stdio://", "lastError": "gone", "pid": 43210, "status": "running", "strategy": "spawn" },
            },
            "sessionRegistry": { "updatedAt": "t2", "sessions": [active, active, { "status": "closed" }, 7] },
            "recentEvents": { "updatedAt": "t3", "events": [{ "seq": 1 }] },
        },
    });
    let mut view = status_view(&data, Some(&base), vec![json!(7)]);
    assert_eq!(view["routes"].take(), json!([7]));
    let notes = view["notes"].take();
    let expected = json!({
        "backend": "independent_codexd",
        "daemon": {
            "daemon_id": "codexd-1", "node_id": "mini", "version": "1.2.3", "started": true,
            "started_at": "2026-03-23T00:00:00.000Z", "updated_at": "2026-03-23T00:00:01.000Z",
            "child": { "endpoint": "stdio://", "last_error": "gone", "pid": 43210, "status": "running", "strategy": "spawn" },
        },
        "proxy": { "route_prefix": "/v1/codex", "target_base_url": "http://127.0.0.1:4319", "transport": "local_http" },
        "recent_events": { "count": 1, "updated_at": "t3" },
        "routes": null,
        "service": {
            "event_stream_url": "ws://x", "listening": true, "resolved_base_url": "http://x", "websocket_clients": 2,
        },
        "sessions": { "active_count": 2, "count": 4, "updated_at": "t2" },
        "surface": ["status", "sessions", "turn"],
        "notes": null,
    });
    assert_eq!(view, expected);
    assert!(!notes.as_array().unwrap().is_empty());
}

#[test]
fn codexds_own_counts_win_over_counted_ones() {
    let data = json!({ "snapshot": { "sessionRegistry": { "count": 900, "activeCount": 850, "sessions": [{ "status": "active" }] } } });
    let view = status_view(&data, None, Vec::new());
    assert_eq!((&view["sessions"]["count"], &view["sessions"]["active_count"]), (&json!(900), &json!(850)));
}

#[test]
fn what_is_missing_or_of_another_type_is_null_and_a_missing_list_counts_0() {
    let mistyped = json!({
        "service": { "eventStreamUrl": 1, "listening": "yes", "resolvedBaseUrl": {}, "websocketClients": "2" },
        "snapshot": {
            "identity": { "daemonId": [], "nodeId": false, "version": 3 },
            "daemon": { "started": 1, "startedAt": 0, "updatedAt": {}, "child": "none" },
            "sessionRegistry": { "updatedAt": 5, "sessions": { "a": 1 }, "count": "9", "activeCount": -1 },
            "recentEvents": { "updatedAt": [], "events": "many" },
        },
    });
    for data in [json!(null), json!([]), json!({}), json!({ "snapshot": 7, "service": [] }), mistyped] {
        let view = status_view(&data, None, Vec::new());
        let nulls = |block: &Value, but: usize| {
            block.as_object().unwrap().values().filter(|value| value.is_null()).count()
                == block.as_object().unwrap().len() - but
        };
        assert!(nulls(&view["service"], 0), "{view:#}");
        assert!(nulls(&view["daemon"], 1) && nulls(&view["daemon"]["child"], 0), "{view:#}");
        assert_eq!(view["sessions"], json!({ "active_count": 0, "count": 0, "updated_at": null }));
        assert_eq!(view["recent_events"], json!({ "count": 0, "updated_at": null }));
    }
}
