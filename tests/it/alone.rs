//! A node that nobody watches: its child is killed, its daemon is killed, nobody answers; and no caller hangs, nothing
//! that was promised is lost or done twice.

use std::thread;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::{get, post, request, try_request};
use e2e::node::Node;
use e2e::reader::Reader;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

/// From the death of the child to the word that its turn is interrupted.
const INTERRUPTED: Duration = Duration::from_millis(100);

fn child(node: &Node) -> Value {
    node.status()["snapshot"]["daemon"]["child"].take()
}

#[track_caller]
fn approval(node: &Node) -> Value {
    eventually("an approval", SOON, || {
        let listed = get(&node.url("/v1/codexd/approvals")).data(200);
        listed["approvals"].get(0).cloned()
    })
}

#[test]
fn the_death_of_the_child_is_told_at_once_and_breaks_nothing_else() {
    for codex in Codex::both() {
        let mut quickest = Duration::MAX;
        let node = Node::start(&codex, &[]);
        let session = node.session(json!({}));
        let mut reader = Reader::open(&node, Some(0));
        for _ in 0..4 {
            node.ready();
            quickest = quickest.min(kill_in_mid_turn(&node, &session, &mut reader));
        }
        figures::print(&format!(
            "interrupted {quickest:?} after the child's death ({codex:?}), at the quickest of 4"
        ));
        assert!(quickest < INTERRUPTED, "{quickest:?}");
        assert_eq!(reader.gaps, []);
        node.turn(&session, "[[say still here]]");
    }
}

fn kill_in_mid_turn(node: &Node, session: &str, reader: &mut Reader) -> Duration {
    let body =
        json!({"sessionId": session, "input": "[[say-slow 2000 one two three four five]]"}).to_string();
    let url = node.url("/v1/codexd/turn?waitMs=60000");
    let waiter = thread::spawn(move || (request("POST", &url, &[], body.as_bytes()), Instant::now()));
    while !reader.next(SOON).unwrap().contains("message.delta") {}
    assert_eq!(get(&node.url("/readyz")).status, 200);
    let pid = child(node)["pid"].as_u64().unwrap();
    let killed = Instant::now();
    e2e::process::kill_pid(pid as u32);
    while !reader.next(SOON).unwrap().contains("\"type\":\"turn.interrupted\"") {}
    let told = killed.elapsed();
    // `ready` means that there is one that takes work.
    let ready = get(&node.url("/readyz"));
    let started = child(node)["status"].take();
    assert!(ready.status == 503 || started == "running", "{} {started}", ready.text());
    let (answer, answered) = waiter.join().unwrap();
    let data = answer.data(200);
    assert_eq!(
        (&data["turn"]["status"], &data["session"]["currentTurnId"]),
        (&json!("interrupted"), &Value::Null)
    );
    let error = data["turn"]["error"].as_str().unwrap();
    assert!(error.contains("app-server ended (signal 9"), "{error}");
    assert!(answered - killed < SOON, "{:?}", answered - killed);
    told
}

#[test]
fn an_approval_does_not_outlive_the_daemon_and_its_session_does() {
    for codex in Codex::both() {
        let mut node = Node::start(&codex, &[]);
        let session = node.session(json!({"approvalPolicy": "untrusted"}));
        let turn = node.say(&session, "[[exec touch never.txt]]");
        let asked = approval(&node);
        assert_eq!((&asked["kind"], &asked["turnId"]), (&json!("command"), &json!(turn)));
        let url = node.url(&format!("/v1/codexd/approvals/{}", asked["approvalId"].as_str().unwrap()));
        node.crash();
        let url = url.replace(url.split("/v1").next().unwrap(), node.codexd.url());
        let late = post(&url, &json!({"decision": "accept"})).failure(409, "conflict");
        assert_eq!(late["details"]["resolution"], "lost");
        assert_eq!(node.end(&session, &turn, SOON), "interrupted");
        assert_eq!(get(&node.url("/v1/codexd/approvals")).data(200)["approvals"], json!([]));
        node.turn(&session, "[[say usable]]");
        assert!(!node.dir.path().join("never.txt").exists());
    }
}

#[test]
fn what_nobody_answers_is_declined_and_the_turn_goes_on() {
    for codex in Codex::both() {
        let node = Node::start(&codex, &["--approval-timeout-ms", "300"]);
        let session = node.session(json!({"approvalPolicy": "untrusted"}));
        node.turn(&session, "[[exec touch never.txt]]");
        let resolved = node.lines().into_iter().find(|line| line.contains("approval.resolved")).unwrap();
        let resolved: Value = serde_json::from_str(&resolved).unwrap();
        let detail = &resolved["detail"];
        assert_eq!((&detail["resolution"], &detail["decision"]), (&json!("expired"), &json!("decline")));
        assert!(!node.dir.path().join("never.txt").exists());
    }
}

#[test]
fn a_key_is_one_turn_whoever_dies_meanwhile() {
    for codex in Codex::both() {
        for wait in [0, 3, 8, 20, 60] {
            one_turn(&codex, Duration::from_millis(wait));
        }
    }
}

/// Twenty callers with one key, `kill -9` of codexd after `wait`, and each asks until it has an answer.
fn one_turn(codex: &Codex, wait: Duration) {
    let mut node = Node::start(codex, &[]);
    node.ready();
    let session = node.session(json!({}));
    node.turn(&session, "[[say first]]");
    let port = node.codexd.url().rsplit(':').next().unwrap().to_owned();
    let text = "[[say only once]]";
    let body = json!({"sessionId": session, "input": text}).to_string();
    let ask = {
        let body = body.clone();
        move |url: &str| try_request("POST", url, &[("Idempotency-Key", "once")], body.as_bytes())
    };
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (ask, url) = (ask.clone(), node.url("/v1/codexd/turn"));
            thread::spawn(move || ask(&url).ok().map(|answer| (answer.status, answer.text())))
        })
        .collect();
    thread::sleep(wait);
    node.crash();
    assert_ne!(node.codexd.url().rsplit(':').next().unwrap(), "0", "after {port}");
    let mut turns: Vec<String> = Vec::new();
    let mut note = |status: u16, text: &str| {
        let answer: Value = serde_json::from_str(text).unwrap();
        assert_eq!(status, 202, "{text}");
        turns.push(answer["data"]["turnId"].as_str().unwrap().to_owned());
    };
    for caller in callers {
        if let Some((status, text)) = caller.join().unwrap() {
            note(status, &text);
        }
    }
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (ask, url) = (ask.clone(), node.url("/v1/codexd/turn"));
            thread::spawn(move || ask(&url).unwrap())
        })
        .collect();
    for caller in callers {
        let answer = caller.join().unwrap();
        note(answer.status, &answer.text());
    }
    turns.sort();
    turns.dedup();
    assert_eq!(turns.len(), 1, "after {wait:?}: {turns:?}");
    let ended = ["completed", "interrupted"];
    assert!(ended.contains(&node.end(&session, &turns[0], SOON).as_str()));
    let asked = node.model().iter().filter(|asked| asked.text == text && asked.attempt == 0).count();
    assert!(*codex == Codex::Fake || asked <= 1, "the model was asked {asked} times after {wait:?}");
    let requested = node.lines().iter().filter(|line| line.contains("\"type\":\"turn.accepted\"")).count();
    assert_eq!(requested, 2);
    let forged = json!({"sessionId": session, "input": "another"}).to_string();
    let url = node.url("/v1/codexd/turn");
    request("POST", &url, &[("Idempotency-Key", "once")], forged.as_bytes()).failure(409, "conflict");
}

#[test]
fn a_turn_that_is_interrupted_ends_however_early_that_is() {
    for codex in Codex::both() {
        let node = Node::start(&codex, &[]);
        let session = node.session(json!({}));
        for wait in [0, 2, 5, 30] {
            let turn = node.say(&session, "[[say-slow 5000 a b c]]");
            thread::sleep(Duration::from_millis(wait));
            let url = node.url(&format!("/v1/codexd/sessions/{session}/interrupt"));
            post(&url, &json!({})).data(202);
            assert_eq!(node.end(&session, &turn, SOON), "interrupted");
            post(&url, &json!({})).failure(409, "conflict");
        }
        let body = json!({"sessionId": session, "input": "[[say-slow 5000 a b c]]", "timeoutMs": 200});
        let late = post(&node.url("/v1/codexd/turn?waitMs=20000"), &body).data(200);
        assert_eq!(late["turn"]["error"], "its deadline of 200 ms has passed");
        let url = node.url(&format!("/v1/codexd/sessions/{session}/close"));
        let turn = node.say(&session, "[[say-slow 5000 a b c]]");
        assert_eq!(post(&url, &json!({})).data(200)["session"]["status"], "closed");
        assert_eq!(node.end(&session, &turn, SOON), "interrupted");
        assert_eq!(post(&url, &json!({})).data(200)["session"]["status"], "closed");
        let body = json!({"sessionId": session, "input": "more"});
        post(&node.url("/v1/codexd/turn"), &body).failure(409, "conflict");
    }
}

#[test]
fn nobody_gets_more_than_the_node_allows() {
    let node = Node::start(
        &Codex::Fake,
        &[
            "--sandbox-max",
            "workspace-write",
            "--approval-policy-allowed",
            "on-request",
            "--cwd-root",
            "/usr",
        ],
    );
    let url = node.url("/v1/codexd/sessions");
    for (body, field) in [
        (json!({"sandbox": "danger-full-access"}), "sandbox"),
        (json!({"approvalPolicy": "never"}), "approvalPolicy"),
        (json!({"cwd": "/"}), "cwd"),
        (json!({}), "cwd"),
        (json!({"cwd": "/usr/../etc"}), "cwd"),
    ] {
        assert_eq!(post(&url, &body).failure(400, "invalid_request")["details"]["field"], field, "{body}");
    }
    // What nobody asked for is looked at, too: the child's own default may be more.
    let silent = post(&url, &json!({"cwd": "/usr"}));
    let made = post(&url, &json!({"cwd": "/usr", "sandbox": "read-only", "approvalPolicy": "on-request"}));
    let session = made.data(201)["session"]["sessionId"].take();
    assert_eq!(silent.status, 400, "{}", silent.text());
    let body = json!({"sessionId": session, "input": "x", "sandboxPolicy": {"type": "dangerFullAccess"}});
    let refused = post(&node.url("/v1/codexd/turn"), &body).failure(400, "invalid_request");
    assert_eq!(refused["details"]["field"], "sandboxPolicy");
}
