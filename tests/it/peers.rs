//! The peers without codexd: beyond the scenarios, the fake is proven to be like the real CLI in what it refuses, keeps and
//! forgets.

use e2e::codex::{Codex, VERSIONS};
use serde_json::json;

use crate::driver::{Direct, Driver};
use crate::scenarios::completed;

/// What tests count turns by.
#[test]
fn a_turn_is_asked_once() {
    for codex in Codex::both().into_iter().filter(|codex| *codex != Codex::Fake) {
        let mut direct = Direct::start(codex);
        let thread = direct.open(json!({}));
        let turn = direct.say(&thread, "just once [[exec true]]", json!({}));
        completed(&mut direct, &turn);
        let asked = direct.bench.model.asked();
        let asked = asked
            .iter()
            .map(|asked| (asked.thread.as_str(), asked.text.as_str(), asked.round, asked.attempt));
        let text = "just once [[exec true]]";
        assert_eq!(asked.collect::<Vec<_>>(), [(thread.as_str(), text, 0, 0), (thread.as_str(), text, 1, 0)]);
    }
}

#[test]
fn both_refuse_alike() {
    let unknown = "01a1fdb9-9f03-7970-9e7c-914b60e74ffa";
    for codex in Codex::both() {
        let mut direct = Direct::start(codex);
        let thread = direct.open(json!({}));
        for (method, params, message) in [
            (
                "no/such",
                json!({}),
                "Invalid request: unknown variant `no/such`, expected one of `initialize`",
            ),
            ("initialize", json!({"clientInfo": {"name": "x", "version": "1"}}), "Already initialized"),
            ("turn/start", json!({"threadId": unknown, "input": []}), "thread not found: 01a1fdb9"),
            ("turn/start", json!({"threadId": "zzz", "input": []}), "invalid thread id: invalid character"),
            ("turn/start", json!({"threadId": thread}), "Invalid request: missing field `input`"),
            (
                "turn/start",
                json!({"threadId": thread, "input": "x"}),
                "Invalid request: invalid type: string \"x\", expected a sequence",
            ),
            ("turn/interrupt", json!({"threadId": thread, "turnId": "x"}), "no active turn to interrupt"),
            (
                "turn/steer",
                json!({"threadId": thread, "expectedTurnId": "x", "input": []}),
                "no active turn to steer",
            ),
            (
                "thread/start",
                json!({"sandbox": "bogus"}),
                "Invalid request: unknown variant `bogus`, expected one of `read-only`",
            ),
            ("thread/start", json!({"approvalPolicy": "bogus"}), "Invalid request: unknown variant `bogus`"),
            (
                "thread/start",
                json!({"cwd": 5}),
                "Invalid request: invalid type: integer `5`, expected a string",
            ),
            (
                "thread/resume",
                json!({"threadId": unknown, "excludeTurns": true}),
                "no rollout found for thread id 01a1fdb9",
            ),
            (
                "thread/resume",
                json!({"threadId": thread, "excludeTurns": true}),
                "no rollout found for thread id",
            ),
            ("thread/turns/list", json!({"threadId": thread}), "is not materialized yet"),
            ("thread/read", json!({"threadId": unknown}), "thread not loaded: 01a1fdb9"),
        ] {
            let refusal = direct.request(method, params.clone()).unwrap_err();
            assert!(refusal.contains(message), "{method} {params}: {refusal}");
        }
    }
}

/// What codexd settles a broken turn from. Up to 0.116 there is no list of turns, and the thread is read; 0.107 does not
/// know either that a turn which was killed does not run any more.
#[test]
fn all_keep_the_history() {
    for codex in [Some(Codex::Fake)].into_iter().chain(VERSIONS.map(Codex::of_version)).flatten() {
        let mut direct = Direct::start(codex.clone());
        let thread = direct.open(json!({"sandbox": "workspace-write", "approvalPolicy": "on-request"}));
        let first = direct.say(&thread, "one", json!({"clientUserMessageId": "mine"}));
        completed(&mut direct, &first);
        let second = direct.say(&thread, "[[hang]]", json!({}));
        direct.wait("the turn", &|event| {
            event.is("item/completed") && event.params["turnId"] == second.as_str()
        });
        direct.crash(&thread);
        let list = direct.request("thread/turns/list", json!({"threadId": thread, "sortDirection": "asc"}));
        let turns = match list {
            Ok(mut list) if codex.since(125) => list["data"].take(),
            Err(refusal) if !codex.since(125) => {
                assert!(refusal.contains("unknown variant `thread/turns/list`"), "{refusal}");
                let whole = json!({"threadId": thread, "includeTurns": true});
                direct.request("thread/read", whole).unwrap()["thread"]["turns"].take()
            }
            other => panic!("{codex:?}: {other:?}"),
        };
        let killed = if codex.version() == "0.107.0" { "inProgress" } else { "interrupted" };
        assert_eq!((&turns[1]["id"], &turns[1]["status"]), (&json!(second), &json!(killed)), "{codex:?}");
        assert_eq!(turns[0]["id"], first);
        let marked = if codex.since(125) { json!("mine") } else { json!(null) };
        assert_eq!(turns[0]["items"][0]["clientId"], marked, "{codex:?}");
        assert!(turns[0]["items"][1]["text"].as_str().unwrap().contains("one"));
    }
}

/// A thread without a turn is gone with its process, and a workspace-write sandbox is not restored on resume.
#[test]
fn both_forget_alike() {
    for codex in Codex::both() {
        let mut direct = Direct::start(codex);
        let empty = direct.open(json!({}));
        let thread = direct.open(json!({"sandbox": "workspace-write", "approvalPolicy": "untrusted"}));
        let turn = direct.say(&thread, "one", json!({}));
        completed(&mut direct, &turn);
        let bench = {
            direct.lines.close_stdin();
            assert!(direct.lines.ended(std::time::Duration::from_secs(5)), "it ends with its stdin");
            direct.bench
        };
        let mut direct = Direct::with(bench, &[]);
        let refusal =
            direct.request("thread/resume", json!({"threadId": empty, "excludeTurns": true})).unwrap_err();
        assert!(refusal.contains("no rollout found"), "{refusal}");
        let resumed =
            direct.request("thread/resume", json!({"threadId": thread, "excludeTurns": true})).unwrap();
        assert_eq!(
            (&resumed["sandbox"]["type"], &resumed["approvalPolicy"]),
            (&json!("readOnly"), &json!("untrusted"))
        );
    }
}

/// Two processes on one home: a loaded thread has one writer.
#[test]
fn both_refuse_a_second_writer() {
    for codex in Codex::both() {
        let mut direct = Direct::start(codex);
        let thread = direct.open(json!({}));
        let turn = direct.say(&thread, "one", json!({}));
        completed(&mut direct, &turn);
        let mut second = e2e::lines::Lines::start(&direct.bench.launch());
        second.handshake();
        let refusal =
            second.request("thread/resume", json!({"threadId": thread, "excludeTurns": true})).unwrap_err();
        assert!(refusal["message"].as_str().unwrap().contains("already has an active writer"), "{refusal}");
    }
}
