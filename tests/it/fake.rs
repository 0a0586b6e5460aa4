//! What the fake alone can do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::codex::Codex;
use e2e::lines::Lines;
use serde_json::{Value, json};

use crate::driver::{Bench, Direct, Driver};
use crate::scenarios::{completed, ended};

fn fake(args: &[&str]) -> Direct {
    Direct::with(Bench::new(Codex::Fake), args)
}

/// A turn with this text, to its good end: all that was on stdout meanwhile.
fn turn(text: &str) -> (Vec<Value>, String) {
    let mut direct = fake(&[]);
    let thread = direct.open(json!({}));
    let turn = direct.say(&thread, text, json!({}));
    let answer = completed(&mut direct, &turn);
    (direct.lines.messages(), answer)
}

#[test]
fn odd_lines() {
    let (messages, _) = turn("[[garbage no { json]] [[half]] [[line 20971520]] [[notify x/y]]");
    assert!(messages.contains(&json!("no { json")));
    let params =
        |method: &str| messages.iter().find(|message| message["method"] == method).unwrap()["params"].clone();
    assert!(params("fake/half")["turnId"].is_string(), "two halves make a whole line");
    assert_eq!(params("fake/line")["text"].as_str().unwrap().len(), 20 << 20);
    params("x/y");
}

#[test]
fn many_items_with_their_own_ids() {
    let (messages, answer) = turn("[[items 500 10]] [[flood 300 7]]");
    let items = messages.iter().filter(|message| message["method"] == "item/completed");
    let ids = items
        .map(|message| message["params"]["item"]["id"].to_string())
        .collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ids.len(), 500 + 2, "and the two messages");
    assert_eq!(answer, "x".repeat(2100));
    assert_eq!(messages.iter().filter(|message| message["method"] == "item/agentMessage/delta").count(), 300);
}

#[test]
fn a_request_that_nobody_knows() {
    let mut direct = fake(&[]);
    let thread = direct.open(json!({}));
    let turn = direct.say(&thread, "[[request fake/ask]]", json!({}));
    let request = direct.wait("the request", &|event| event.is("fake/ask"));
    direct.lines.send(&json!({"id": request.handle, "error": {"code": -32601, "message": "unknown"}}));
    assert!(completed(&mut direct, &turn).contains("unknown"));
}

#[test]
fn an_end_in_mid_turn() {
    let mut direct = fake(&[]);
    let thread = direct.open(json!({}));
    direct.say(&thread, "[[say before]] [[stderr last words]] [[exit 9]]", json!({}));
    let status = direct.lines.process.wait(Duration::from_secs(5)).unwrap();
    assert_eq!(status.code(), Some(9));
    assert!(direct.lines.process.stderr().contains("last words"));
    direct.crash(&thread);
    let turns = direct.request("thread/turns/list", json!({"threadId": thread})).unwrap();
    assert_eq!(turns["data"][0]["status"], "interrupted");
    assert_eq!(turns["data"][0]["items"][1]["text"], "before");
}

#[test]
fn a_model_that_hangs_can_be_interrupted() {
    let mut direct = fake(&[]);
    let thread = direct.open(json!({}));
    let turn = direct.say(&thread, "[[hang]]", json!({}));
    // Until it has started it is deaf, and says so.
    let interrupt = json!({"threadId": thread, "turnId": turn});
    if let Err(refusal) = direct.request("turn/interrupt", interrupt.clone()) {
        assert_eq!(refusal, "no active turn to interrupt");
        direct.wait("the start", &|event| event.is("turn/started"));
        direct.wait("the input", &|event| event.is("item/completed"));
        direct.request("turn/interrupt", interrupt).unwrap();
    }
    ended(&mut direct, &turn, "interrupted");
}

#[test]
fn requests_that_go_wrong() {
    let rules =
        ["account/read=hang", "thread/start=overload:2", "model/list=unknown", "config/read=delay:1000"];
    let args = rules.iter().flat_map(|rule| ["--on", rule]).collect::<Vec<_>>();
    let mut direct = fake(&args);
    direct.lines.ask("account/read", json!({}));
    let slow = direct.lines.ask("config/read", json!({}));
    for _ in 0..2 {
        let refusal = direct.lines.request("thread/start", json!({})).unwrap_err();
        assert_eq!(refusal["code"], -32001);
    }
    direct.request("thread/start", json!({})).unwrap();
    let refusal = direct.request("model/list", json!({})).unwrap_err();
    assert!(refusal.contains("unknown variant `model/list`"), "{refusal}");
    assert_eq!(direct.lines.answer(slow).unwrap()["config"]["model_provider"], "mock");
    assert_eq!(direct.lines.messages().last().unwrap()["id"], slow, "others are answered meanwhile");
}

#[test]
fn only_the_first_starts_are_faulty() {
    let bench = Bench::new(Codex::Fake);
    let args = ["--on", "initialize=exit:3", "--faulty-starts", "1"];
    let mut first = Lines::start(&bench.launch().args(args));
    first.ask("initialize", json!({"clientInfo": {"name": "x", "version": "1"}}));
    assert_eq!(first.process.wait(Duration::from_secs(5)).unwrap().code(), Some(3));
    Direct::with(bench, &args);
}

#[test]
fn a_banner_a_version_a_login_and_a_broken_config() {
    let mut direct = fake(&["--banner", "--version", "0.100.0", "--login-required", "--broken-config"]);
    let first = &direct.lines.messages()[..2];
    assert_eq!(first[0], "fake app-server ready");
    assert!(first[1]["result"]["userAgent"].as_str().unwrap().starts_with("codexd/0.100.0 "));
    assert!(direct.lines.process.stderr().contains("stderr"));
    assert_eq!(direct.request("account/read", json!({})).unwrap()["requiresOpenaiAuth"], true);
    direct.wait("the warning", &|event| event.is("configWarning"));
    assert_eq!(direct.lines.request("config/read", json!({})).unwrap_err()["code"], -32603);
    assert!(direct.request("thread/start", json!({})).unwrap_err().contains("failed to load configuration"));
}

#[test]
fn it_can_refuse_to_end() {
    let mut direct = fake(&["--ignore-eof", "--ignore-term", "--wrapped"]);
    let below = direct.lines.process.descendants();
    assert!(!below.is_empty(), "npm's codex is a wrapper too");
    direct.lines.close_stdin();
    direct.lines.process.signal("TERM");
    assert!(!direct.lines.ended(Duration::from_millis(300)));
    direct.lines.process.kill();
    assert!(!direct.lines.ended(Duration::from_millis(100)), "killing the wrapper is not enough");
    direct.lines.process.kill_all();
    assert!(direct.lines.ended(Duration::from_secs(5)));
}

fn transcripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    files.sort();
    files
}

/// Whoever asks what the recorded client asked hears what it heard, line by line.
#[test]
fn recordings_are_played_as_they_are() {
    assert_eq!(transcripts().len(), 18);
    for file in transcripts() {
        let bench = Bench::new(Codex::Fake);
        let mut lines = Lines::start(&bench.launch().args(["--play"]).args([&file]));
        let mut heard = 0;
        for line in fs::read_to_string(&file).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            match (line["dir"].as_str().unwrap(), &line["msg"]) {
                ("in", Value::String(raw)) => lines.send_raw(raw),
                ("in", message) => lines.send(message),
                ("out", message) => {
                    let (at, got) = lines.wait_for(&message.to_string(), heard, |_| true);
                    assert_eq!(got, *message, "{}", file.display());
                    heard = at;
                }
                _ => {}
            }
        }
    }
}

/// A client that neither steers nor interrupts nor answers hears the rest all the same, but no answers to what it did
/// not ask.
#[test]
fn recordings_go_on_without_the_client() {
    for (name, turns) in
        [("06_interrupt_slow_turn", 1), ("11_steer", 1), ("12_second_turn_start_while_active", 1)]
    {
        let bench = Bench::new(Codex::Fake);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("transcripts/{name}.jsonl"));
        let file = file.to_str().unwrap().to_owned();
        let mut direct = Direct::with(bench, &["--play", &file, "--patience-ms", "50"]);
        direct.request("config/read", json!({})).unwrap();
        let thread = direct.open(json!({}));
        let turn = direct.say(&thread, "whatever", json!({}));
        direct.wait("the end", &|event| {
            event.is("turn/completed") && event.params["turn"]["id"] == turn.as_str()
        });
        let answers =
            direct.lines.messages().iter().filter(|message| message.get("method").is_none()).count();
        assert_eq!(answers, 1 + 1 + 1 + turns, "{name}: initialize, config/read, thread/start, turn/start");
    }
}
