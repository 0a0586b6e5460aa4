//! The stand-in model as a program.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::http::{Events, post, request};
use e2e::process::binary;
use e2e::temp::TempDir;
use e2e::wait::eventually;
use serde_json::{Value, json};

fn ask(text: &str, outputs: &[&str]) -> Value {
    let mut input = vec![
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment_context>"}]}),
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}),
    ];
    for output in outputs {
        input.push(
            json!({"type": "function_call", "call_id": "c", "name": "exec_command", "arguments": "{}"}),
        );
        input.push(json!({"type": "function_call_output", "call_id": "c", "output": output}));
    }
    json!({"model": "m", "stream": true, "prompt_cache_key": "thread-1", "input": input})
}

#[test]
fn it_says_where_it_is_and_ends_with_its_stdin() {
    let dir = TempDir::new();
    let log = dir.path().join("log");
    let mut stub = Command::new(binary("model-stub"));
    stub.args(["--until-stdin-eof", "--log"]).arg(&log).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut stub = stub.spawn().unwrap();
    let mut stdout = BufReader::new(stub.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let base = line.trim().strip_prefix("listening ").unwrap().to_owned();

    let body = ask("tell me [[say one two]] [[exec true]]", &[]).to_string();
    let mut events = Events::open("POST", &format!("{base}/responses"), &[], body.as_bytes());
    let mut said = Vec::new();
    while let Some(block) = events.next_data() {
        let data = block.json();
        assert_eq!(block.event.as_deref(), data["type"].as_str());
        said.push(data);
    }
    let kinds = said.iter().map(|data| data["type"].as_str().unwrap()).collect::<Vec<_>>();
    let (delta, done) = ("response.output_text.delta", "response.output_item.done");
    let wanted =
        ["response.created", "response.output_item.added", delta, delta, done, done, "response.completed"];
    assert_eq!(kinds, wanted);
    assert_eq!(said[5]["item"]["arguments"], "{\"cmd\":\"true\"}");

    let after = post(
        &format!("{base}/responses"),
        &ask("tell me [[exec true]]", &["Wall time: 1\nOutput:\nall good\n"]),
    );
    assert!(after.text().contains("Done: all good"), "{}", after.text());

    drop(stub.stdin.take());
    eventually("the end of the stub", Duration::from_secs(5), || stub.try_wait().unwrap())
        .success()
        .then_some(())
        .unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "it prints one line and no more");
    let log = std::fs::read_to_string(&log).unwrap();
    let rounds = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rounds = rounds.map(|asked| (asked["thread"].clone(), asked["round"].clone())).collect::<Vec<_>>();
    assert_eq!(rounds, [(json!("thread-1"), json!(0)), (json!("thread-1"), json!(1))]);
}

#[test]
fn failures_and_cuts_count_the_repetitions() {
    let model = e2e::model::Model::start(0, None).unwrap();
    let url = format!("{}/responses", model.base_url());
    let status = |text: &str| post(&url, &ask(text, &[])).status;
    assert_eq!(
        [status("[[fail 503 2]]"), status("[[fail 503 2]]"), status("[[fail 503 2]]")],
        [503, 503, 200]
    );
    let cut = || post(&url, &ask("[[cut]]", &[])).text();
    assert!(!cut().contains("response.completed"), "the first is cut");
    assert!(cut().contains("response.completed"), "the second is whole");
    assert_eq!(model.asked().iter().map(|asked| asked.attempt).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
}

#[test]
fn what_it_does_not_serve_it_refuses() {
    let model = e2e::model::Model::start(0, None).unwrap();
    assert_eq!(request("GET", &format!("{}/models", model.base_url()), &[], b"").status, 404);
    let url = format!("{}/responses", model.base_url());
    assert_eq!(request("POST", &url, &[], b"{").status, 400);
    let stub = Command::new(binary("model-stub")).arg("--nope").stderr(Stdio::null()).status().unwrap();
    assert_eq!(stub.code(), Some(2));
}
