//! What codexd adds to the conversations that it passes on.

use std::time::Duration;

use e2e::codex::Codex;
use e2e::golden::golden;
use e2e::http::{get, post};
use serde_json::{Value, json};

use crate::codexd::Codexd;
use crate::driver::{Driver, order};
use crate::scenarios::{self, completed};

/// Every number once, from 1 on.
pub(crate) fn gapless(log: &[Value]) {
    for (event, seq) in log.iter().zip(1..) {
        assert_eq!(event["seq"], seq, "{event}");
    }
}

/// `kill -9` in the middle of a turn: the same sessions, numbers without a gap, and the old session goes on.
pub(crate) fn kill_codexd_and_go_on(codex: Codex) {
    let mut codexd = Codexd::start(codex);
    let (first, idle) = (codexd.open(json!({"metadata": {"who": "me"}})), codexd.open(json!({})));
    let turn = codexd.say(&first, "remember this", json!({}));
    completed(&mut codexd, &turn);
    let broken = codexd.say(&first, "[[say-slow 5000 a b c]]", json!({}));
    codexd.wait("the first word", &|event| {
        event.is("item/agentMessage/delta") && event.params["turnId"] == broken.as_str()
    });
    let before = (codexd.session(&first), codexd.session(&idle));
    codexd.kill();
    codexd.start_again();
    let after = (codexd.session(&first), codexd.session(&idle));
    for key in ["sessionId", "cwd", "metadata", "createdAt", "status", "purpose", "model"] {
        assert_eq!((&before.0[key], &before.1[key]), (&after.0[key], &after.1[key]), "{key}");
    }
    let next = codexd.say(&first, "and now?", json!({}));
    assert!(completed(&mut codexd, &next).contains("and now?"));
    if codexd.bench.codex != Codex::Fake {
        let asked = codexd.bench.model.asked();
        assert_eq!(asked.iter().filter(|asked| asked.text == "and now?").count(), 1, "and only once");
    }
    assert_eq!(codexd.session(&first)["lastTurnStatus"], "completed");
    let other = codexd.say(&idle, "first words", json!({}));
    assert!(completed(&mut codexd, &other).contains("first words"), "a session without a turn survives too");
    gapless(codexd.log());
    let settled = codexd.log().iter().filter(|event| event["detail"]["turnId"] == broken.as_str());
    assert_eq!(
        settled.filter(|event| event["type"] == "turn.interrupted").count(),
        1,
        "what ran is settled once"
    );
}

/// A resumed thread is restated: by itself the child would forget a workspace-write sandbox.
#[test]
fn a_resumed_session_keeps_its_settings() {
    let mut codexd = Codexd::start(Codex::Fake);
    let settings =
        json!({"sandbox": "workspace-write", "approvalPolicy": "on-request", "model": "gpt-6-luna"});
    let session = codexd.open(settings);
    let stored = |codexd: &Codexd| {
        let thread = codexd.session(&session)["threadId"].as_str().unwrap().to_owned();
        let file = codexd.bench.home.join(format!("fake-app-server/{thread}.json"));
        let stored: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        ["sandbox", "approval", "model", "cwd"].map(|key| stored[key].clone())
    };
    let turn = codexd.say(&session, "one", json!({}));
    completed(&mut codexd, &turn);
    let before = stored(&codexd);
    assert_eq!(before[0]["type"], "workspaceWrite");
    codexd.kill_child();
    let turn = codexd.say(&session, "two", json!({}));
    completed(&mut codexd, &turn);
    assert_eq!(stored(&codexd), before);
    let changed = codexd.events().iter().filter(|event| event.is("thread/settings/updated")).count();
    assert_eq!(changed, 0, "restated, not changed");
}

/// The whole way: client, conductor, codexd, child and back.
#[test]
fn hello_through_conductor() {
    for codex in Codex::both() {
        let mut codexd = Codexd::behind_conductor(codex);
        scenarios::hello(&mut codexd);
        golden("peers/hello.txt", &order(&codexd.events(), &[]));
        let session = get(&codexd.url("sessions")).data(200)["sessions"][0].take();
        let body = json!({"sessionId": session["sessionId"], "input": "[[say streamed to you]]"}).to_string();
        let json = [("content-type", "application/json")];
        let mut stream = e2e::http::Events::open("POST", &codexd.url("turn"), &json, body.as_bytes());
        let events = std::iter::from_fn(|| stream.next_data()).map(|block| block.json()).collect::<Vec<_>>();
        let deltas = events.iter().filter(|event| event["type"] == "app-server.turn.message.delta");
        let text = deltas.map(|event| event["detail"]["delta"].as_str().unwrap()).collect::<String>();
        assert_eq!(text, "streamed to you");
        assert_eq!(events.last().unwrap()["type"], "app-server.turn.completed");
    }
}

/// What a reader of the disk sees, is what the daemon showed.
#[test]
fn status_from_the_disk_is_what_http_showed() {
    let mut codexd = Codexd::start(Codex::Fake);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "hello", json!({}));
    completed(&mut codexd, &turn);
    let mut shown = get(&codexd.url("status")).data(200)["snapshot"].take();
    let state = codexd.bench.dir.path().join("state");
    let status = e2e::process::Launch::of("codexd", codexd.bench.dir.path());
    let status = status.args(["status", "--json", "--state-dir"]).args([state]);
    let (code, out, _) = status.run(Duration::from_secs(10));
    assert_eq!(code.code(), Some(0));
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["sessionRegistry"]["sessions"], shown["sessionRegistry"]["sessions"].take());
    assert_eq!(told["daemon"]["started"], true);
    assert_eq!(told["runRegistry"]["runs"], json!([]));
}

/// One turn at a time: the child would take a second one for a steer.
#[test]
fn a_busy_session_takes_no_second_turn() {
    let mut codexd = Codexd::start(Codex::Fake);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "[[sleep 2000]]", json!({}));
    let refused = post(&codexd.url("turn"), &json!({"sessionId": session, "input": "too soon"}))
        .failure(409, "conflict");
    assert_eq!(refused["details"]["currentTurnId"], turn);
    completed(&mut codexd, &turn);
    let inputs =
        codexd.events().iter().filter(|event| event.is_item("item/completed", "userMessage")).count();
    assert_eq!(inputs, 1);
}
