//! The browser bridge: what each client is told, what it may do, and what a slow or rude one costs.

use std::time::Duration;

use e2e::http::{get, post};
use e2e::process::{Daemon, Launch};
use e2e::temp::TempDir;
use e2e::wait::SOON;
use e2e::websocket::{Got, Socket};
use serde_json::{Value, json};

fn conductor(args: &[&str]) -> (Daemon, TempDir) {
    let dir = TempDir::new();
    let launch = Launch::of("conductor", dir.path()).args(["start", "--local-api", "http://127.0.0.1:0"]);
    (Daemon::start(&launch.args(args)), dir)
}

fn url(conductor: &Daemon, path: &str) -> String {
    format!("{}{path}", conductor.url())
}

/// A client, and the snapshot that it is greeted with.
fn client(conductor: &Daemon) -> (Socket, Value) {
    let origin = [("origin", "moz-extension://0d5f8a0e-7f3b-4a5e-9f0a-6a1c5e1a2b3c")];
    let mut socket = Socket::connect(&url(conductor, "/ws/firefox"), &origin).unwrap();
    let greeting = next(&mut socket);
    assert_eq!((&greeting["type"], &greeting["reason"]), (&json!("state_snapshot"), &json!("connected")));
    (socket, greeting)
}

#[track_caller]
fn next(socket: &mut Socket) -> Value {
    socket.text(SOON)
}

fn send(socket: &mut Socket, message: &Value) {
    socket.send(&message.to_string());
}

#[test]
fn a_client_is_greeted_answered_and_told_of_every_change() {
    let (conductor, _dir) = conductor(&[]);
    let snapshot = get(&url(&conductor, "/v1/runtime")).data(200);
    assert_eq!(
        snapshot["controlApi"]["firefoxWsUrl"],
        url(&conductor, "/ws/firefox").replacen("http", "ws", 1)
    );
    let (mut one, greeting) = client(&conductor);
    let (mut two, _) = client(&conductor);
    let state = get(&url(&conductor, "/v1/system/state")).data(200);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&greeting["snapshot"]["system"]), keys(&state), "one contract of the state");

    send(&mut one, &json!({ "type": "hello", "requestId": "r-0" }));
    let ack = next(&mut one);
    assert_eq!(
        (&ack["type"], &ack["requestId"], &ack["nodeId"]),
        (&json!("hello_ack"), &json!("r-0"), &json!("mini-main"))
    );
    assert_eq!(next(&mut one)["reason"], "hello");

    for (action, mode) in [("pause", "paused"), ("drain", "draining"), ("resume", "running")] {
        send(
            &mut one,
            &json!({ "type": "action_request", "action": action, "requestId": "r-1", "reason": "why not" }),
        );
        let (mut result, mut pushed) = (Value::Null, Value::Null);
        while result.is_null() || pushed.is_null() {
            let message = next(&mut one);
            let slot = if message["type"] == "action_result" { &mut result } else { &mut pushed };
            *slot = message;
        }
        let facts = (&result["requestId"], &result["action"], &result["ok"], &result["error"]);
        assert_eq!(facts, (&json!("r-1"), &json!(action), &json!(true), &Value::Null));
        assert_eq!((&result["state"]["mode"], &result["state"]["reason"]), (&json!(mode), &json!("why not")));
        assert_eq!(result["state"]["source"], "firefox");
        assert_eq!(
            get(&url(&conductor, "/v1/system/state")).data(200)["mode"],
            mode,
            "the same state by HTTP"
        );
        assert_eq!(
            (&pushed["reason"], &pushed["snapshot"]["system"]["mode"]),
            (&json!("changed"), &json!(mode))
        );
        let pushed = next(&mut two);
        assert_eq!(
            (&pushed["reason"], &pushed["snapshot"]["system"]["mode"]),
            (&json!("changed"), &json!(mode))
        );
    }
    let paused = post(&url(&conductor, "/v1/system/pause"), &json!({ "requestedBy": "me" })).data(200);
    assert_eq!(paused["requested_by"], "me", "either spelling is taken");
    for socket in [&mut one, &mut two] {
        assert_eq!(
            next(socket)["snapshot"]["system"]["source"],
            "http",
            "what is done by HTTP is pushed, too"
        );
    }
    send(&mut two, &json!({ "type": "state_request" }));
    assert_eq!(next(&mut two)["reason"], "state_request");
}

#[test]
fn what_makes_no_sense_is_an_error_that_names_the_field() {
    let (conductor, _dir) = conductor(&[]);
    let (mut socket, _) = client(&conductor);
    for (message, code, names) in [
        (json!({}), "invalid_request", "`type`"),
        (json!({ "type": "wish" }), "invalid_request", "`type`"),
        (json!({ "type": "action_request" }), "invalid_request", "`action`"),
        (
            json!({ "type": "action_request", "action": "explode", "request_id": "r-9" }),
            "invalid_request",
            "`action`",
        ),
        (json!({ "type": "action_request", "action": "pause", "reason": 7 }), "invalid_request", "`reason`"),
        (json!({ "type": "hello", "requestId": "x".repeat(129) }), "invalid_request", "`requestId`"),
        (json!([1]), "invalid_json", "object"),
    ] {
        send(&mut socket, &message);
        let error = next(&mut socket);
        assert_eq!((&error["type"], &error["error"]["code"]), (&json!("error"), &json!(code)), "{message}");
        assert!(error["error"]["message"].as_str().unwrap().contains(names), "{error}");
        assert_eq!(
            error["requestId"] == "r-9",
            message["request_id"] == "r-9",
            "who waits for it hears of it"
        );
    }
    assert_eq!(
        get(&url(&conductor, "/v1/system/state")).data(200)["updated_at"],
        Value::Null,
        "nothing was done"
    );
}

#[test]
fn an_action_is_judged_as_a_write() {
    let (conductor, _dir) =
        conductor(&["--shared-token", "secret", "--control-api-base", "https://node.example"]);
    let bridge = url(&conductor, "/ws/firefox");
    let cases: [(&[(&'static str, &str)], bool); 3] = [
        (&[], true),
        (&[("host", "node.example")], false),
        (&[("host", "node.example"), ("authorization", "Bearer secret")], true),
    ];
    for (headers, may) in cases {
        let mut socket = Socket::connect(&bridge, headers).unwrap();
        next(&mut socket);
        send(&mut socket, &json!({ "type": "action_request", "action": "resume" }));
        let result = loop {
            let message = next(&mut socket);
            if message["type"] == "action_result" {
                break message;
            }
        };
        assert_eq!(result["ok"], may, "{result}");
        assert!(may || result["error"]["code"] == "unauthorized", "{result}");
    }
    for origin in ["https://evil.example", "null", "http://localhost:1"] {
        assert_eq!(Socket::connect(&bridge, &[("origin", origin)]).err(), Some(403), "{origin}");
    }
}

#[test]
fn a_client_that_reads_nothing_costs_the_others_nothing_and_one_that_only_asks_is_closed() {
    let (conductor, _dir) = conductor(&[]);
    let (_still, _) = client(&conductor);
    let (mut good, _) = client(&conductor);
    let (mut greedy, _) = client(&conductor);
    for turn in 0..200 {
        let action = if turn % 2 == 0 { "pause" } else { "resume" };
        post(&url(&conductor, &format!("/v1/system/{action}")), &json!({ "reason": turn.to_string() }))
            .data(200);
    }
    let last = loop {
        let message = next(&mut good);
        if message["snapshot"]["system"]["reason"] == "199" {
            break message;
        }
    };
    assert_eq!(last["snapshot"]["system"]["mode"], "running");
    // Who asks on and on and takes nothing is not heard at some point, and gets all its answers when it reads.
    let ask = json!({ "type": "state_request", "reason": "x".repeat(1000) }).to_string();
    let asked = (0..200_000).take_while(|_| greedy.try_send(&ask, Duration::from_secs(1))).count();
    assert!(asked < 200_000, "it was heard for ever");
    send(&mut good, &json!({ "type": "state_request" }));
    assert_eq!(next(&mut good)["reason"], "state_request");
    let mut answered = 0;
    while answered < asked {
        answered += usize::from(next(&mut greedy)["reason"] == "state_request");
    }
}

#[test]
fn clients_have_a_bound_and_a_stop_closes_them_at_once() {
    let (mut conductor, _dir) = conductor(&[]);
    let bridge = url(&conductor, "/ws/firefox");
    let mut clients: Vec<_> = (0..32).map(|_| client(&conductor).0).collect();
    assert_eq!(Socket::connect(&bridge, &[]).err(), Some(503));
    drop(clients.pop());
    e2e::wait::eventually("a free seat", SOON, || Socket::connect(&bridge, &[]).ok());
    conductor.signal("TERM");
    for client in &mut clients {
        assert_eq!(closed(client).0, 1001);
    }
    assert!(conductor.wait(SOON).is_some_and(|status| status.success()));
}

fn closed(socket: &mut Socket) -> (u16, String) {
    loop {
        match socket.next(SOON) {
            Got::Text(_) => {}
            Got::Closed(code, reason) => return (code, reason),
            Got::Nothing => panic!("neither closed nor told"),
        }
    }
}
