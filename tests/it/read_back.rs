//! What is kept of a conversation, and how it is read back when the log has forgotten it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::{get, post};
use e2e::node::{Node, conductor};
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

const MIB: usize = 1024 * 1024;

fn transcript(node: &Node, session: &str, query: &str) -> Value {
    get(&node.url(&format!("/v1/codexd/sessions/{session}/transcript{query}"))).data(200)
}

fn turns(node: &Node, session: &str) -> Vec<Value> {
    transcript(node, session, "")["turns"].as_array().unwrap().clone()
}

fn folder(node: &Node) -> PathBuf {
    node.dir.path().join("state/codexd/transcripts")
}

/// Bytes of all transcripts on disk.
fn kept(node: &Node) -> u64 {
    fs::read_dir(folder(node)).unwrap().flatten().map(|entry| entry.metadata().unwrap().len()).sum()
}

fn told(node: &Node) -> Value {
    node.status()["snapshot"]["disk"].take()
}

#[test]
fn a_conversation_is_read_back_as_it_was() {
    for codex in Codex::both() {
        let mut node = Node::start(&codex, &[]);
        let session = node.session(json!({}));
        let none = transcript(&node, &session, "");
        assert_eq!(none, json!({ "turns": [], "nextCursor": null, "truncated": false }));
        node.turn(&session, "please [[say first]] [[exec echo out; exit 3]] [[say second]]");
        node.turn(&session, "[[patch note.txt hello]] [[say patched]]");
        let turn = node.say(&session, "[[exec sleep 30]]");
        let running = eventually("a command that runs", SOON, || {
            turns(&node, &session).pop().filter(|turn| turn["commands"][0]["status"] == "inProgress")
        });
        assert_eq!((&running["status"], &running["endedAt"]), (&json!("inProgress"), &Value::Null));
        node.crash();
        assert_eq!(node.end(&session, &turn, SOON), "interrupted");
        node.turn(&session, "[[say after all]]");

        let found = turns(&node, &session);
        let text = |turn: &Value| turn["text"].as_str().unwrap_or("-").to_owned();
        let statuses = found.iter().map(|turn| turn["status"].as_str().unwrap());
        assert_eq!(statuses.collect::<Vec<_>>(), ["completed", "completed", "interrupted", "completed"]);
        assert!(
            found[0]["input"][0]["items"][0]["text"].as_str().unwrap().starts_with("please [[say first]]")
        );
        let command = &found[0]["commands"][0];
        assert!(command["command"].as_str().unwrap().contains("echo out; exit 3"), "{command}");
        assert_eq!((&command["exitCode"], command["output"].as_str().unwrap().trim()), (&json!(3), "out"));
        let said = found[0]["messages"].as_array().unwrap().iter().map(text).collect::<Vec<_>>();
        assert_eq!((said.first().unwrap().as_str(), said.last().unwrap().as_str()), ("first", "second"));
        assert_eq!(text(&found[0]), "second");
        assert!(found[0]["usage"]["total"].is_object(), "{}", found[0]["usage"]);
        let change = &found[1]["fileChanges"][0];
        assert!(change["path"].as_str().unwrap().ends_with("note.txt"), "{change}");
        assert_eq!((&change["kind"], change["diff"].as_str().unwrap().trim()), (&json!("add"), "hello"));
        let cut_off = &found[2]["commands"][0];
        assert!(cut_off["status"] == "closed" && cut_off["reason"].is_string(), "{cut_off}");
        assert!(found[2]["error"].is_string() && found[2]["endedAt"].is_string());
        assert_eq!(text(&found[3]), "after all");

        // The same in pages, and each turn by its id.
        let (mut pages, mut query) = (Vec::new(), "?limit=3".to_owned());
        let door = conductor(&node.dir, node.codexd.url());
        loop {
            let page = transcript(&node, &session, &query);
            let passed = format!("{}/v1/codex/sessions/{session}/transcript{query}", door.url());
            assert_eq!(get(&passed).data(200), page, "the front door passes it on");
            pages.splice(0..0, page["turns"].as_array().unwrap().clone());
            let Some(next) = page["nextCursor"].as_str() else { break };
            query = format!("?limit=3&cursor={next}");
        }
        assert_eq!(pages, found);
        for turn in &found {
            let read = get(&node.url(&format!("/v1/codexd/turns/{}", turn["turnId"].as_str().unwrap())));
            let read = read.data(200)["turn"].take();
            for key in ["turnId", "status", "text", "usage", "error"] {
                assert_eq!(read[key], turn[key], "{key}");
            }
        }
        let unknown = node.url("/v1/codexd/sessions/session-00000000-1/transcript");
        get(&unknown).failure(404, "not_found");
        get(&node.url(&format!("/v1/codexd/sessions/{session}/transcript?limit=0")))
            .failure(400, "invalid_request");
        get(&node.url(&format!("/v1/codexd/sessions/{session}/transcript?cursor=x")))
            .failure(400, "invalid_request");
    }
}

#[test]
fn what_the_log_cuts_is_whole_after_a_kill() {
    let mut node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    let input = format!("{} [[big {}]] [[say so much]]", "é\n".repeat(MIB / 4), 3 * MIB);
    let turn = node.turn(&session, &input);
    node.crash();
    let found = turns(&node, &session).remove(0);
    assert_eq!(found["input"][0]["items"], json!([{ "type": "text", "text": input }]));
    assert_eq!(found["messages"][0]["text"].as_str().unwrap().len(), 3 * MIB);
    assert!(found["input"][0]["truncated"] == false && found["messages"][0]["truncated"] == false);
    assert_eq!(found["text"], "so much");

    // One that ends with it, asked for by whoever waits, and a line that is too long to be kept whole.
    let body = json!({"sessionId": session, "input": format!("[[big {}]]", 2 * MIB)});
    let answer = post(&node.url("/v1/codexd/turn?waitMs=20000"), &body).data(200);
    assert_eq!(answer["turn"]["text"].as_str().unwrap().len(), 2 * MIB);
    let over = node.turn(&session, &format!("[[big {}]]", 17 * MIB));
    node.crash();
    let read = get(&node.url(&format!("/v1/codexd/turns/{over}"))).data(200)["turn"].take();
    assert!(read["truncated"] == true && read["text"].as_str().unwrap().len() > 10_000, "cut, and says so");

    let lines = node.lines();
    assert!(lines.iter().all(|line| line.len() < 300 * 1024), "no line of the log is larger for it");
    let cut = lines.iter().filter(|line| line.contains("\"whole\":\"")).count();
    let files = fs::read_dir(folder(&node)).unwrap().flatten();
    let wholes = files.filter(|entry| entry.path().extension().is_some_and(|end| end == "json")).count();
    assert_eq!((cut, wholes), (4, 4), "the input, what the child made of it, and two messages");
    assert_eq!(told(&node)["transcriptsBytes"].as_u64(), Some(kept(&node)));
    assert_eq!(turns(&node, &session)[0]["turnId"], turn.as_str());
}

#[test]
fn transcripts_are_bounded_and_the_oldest_closed_goes_first() {
    let bound = MIB.to_string();
    let mut node = Node::start(&Codex::Fake, &["--transcripts-total-bytes", &bound]);
    let sessions: Vec<_> = (0..4).map(|_| node.session(json!({}))).collect();
    let [idle, closed, fresh, talker] = &sessions[..] else { panic!() };
    for session in [idle, closed, fresh] {
        node.turn(session, "[[items 200 1000]] [[say one]]");
    }
    post(&node.url(&format!("/v1/codexd/sessions/{closed}/close")), &json!({})).data(200);
    let gone = |node: &Node, session: &str| {
        let page = transcript(node, session, "");
        (page["turns"].as_array().unwrap().len(), page["truncated"] == true)
    };
    let small = |node: &Node| {
        eventually("no more than there may be", SOON, || (kept(node) <= MIB as u64).then_some(()));
    };
    node.turn(talker, "[[items 150 1000]]");
    small(&node);
    assert_eq!(
        [idle, closed, fresh].map(|session| gone(&node, session)),
        [(1, false), (0, true), (1, false)]
    );
    node.turn(fresh, "[[say two]]");
    node.turn(talker, "[[items 200 1000]]");
    small(&node);
    assert_eq!([idle, fresh].map(|session| gone(&node, session)), [(0, true), (2, false)]);
    // What runs keeps its own, whatever it comes to.
    let turn = node.say(talker, "[[items 2000 1000]] [[sleep 1500]]");
    eventually("all others gone", SOON, || (gone(&node, fresh) == (0, true)).then_some(()));
    eventually("more than there may be", SOON, || (kept(&node) > MIB as u64).then_some(()));
    assert_eq!(gone(&node, talker), (3, false));
    assert_eq!(node.end(talker, &turn, SOON), "completed");
    small(&node);

    // A session whose transcript has gone begins a new one, and says so for good.
    node.turn(idle, "[[say again]]");
    node.crash();
    assert_eq!((gone(&node, idle), gone(&node, closed)), ((1, true), (0, true)));
    assert_eq!(turns(&node, idle)[0]["text"], "again");
    let removed = node.lines().iter().filter(|line| line.contains("\"type\":\"transcript.removed\"")).count();
    assert!(removed >= 4, "{removed}");
    let disk = told(&node);
    assert_eq!(disk["transcriptsBytes"].as_u64(), Some(kept(&node)));
    assert!(disk["stateBytes"].as_u64().unwrap() > kept(&node) && disk["codexHomeBytes"].is_u64(), "{disk}");
}

/// The folder becomes a file: whatever is to be written there fails.
#[test]
fn transcripts_that_cannot_be_written_stop_nothing_but_what_would_be_lost() {
    let node = Node::start(&Codex::Fake, &[]);
    let (session, other) = (node.session(json!({})), node.session(json!({})));
    node.turn(&session, "[[say one]]");
    let (here, aside) = (folder(&node), node.dir.path().join("aside"));
    fs::rename(&here, &aside).unwrap();
    fs::write(&here, "in the way").unwrap();
    node.turn(&session, "[[say two]]");
    node.turn(&other, "[[say hello]]");
    // What is held whole nowhere else must not be acknowledged.
    let big = node.say(&other, "[[big 1000000]]");
    eventually("the end of it, as the child's history has it", SOON, || {
        let read = get(&node.url(&format!("/v1/codexd/turns/{big}")));
        (read.status == 200 && read.data(200)["turn"]["status"] != "inProgress").then_some(())
    });
    let events = get(&node.url(&format!("/v1/codexd/events?sessionId={other}&limit=1000"))).data(200);
    let holds = |event: &Value| event["detail"]["whole"].is_string();
    assert!(!events["events"].as_array().unwrap().iter().any(holds));

    fs::remove_file(&here).unwrap();
    fs::rename(&aside, &here).unwrap();
    node.turn(&session, "[[say three]]");
    let texts = || turns(&node, &session).iter().map(|turn| turn["text"].clone()).collect::<Vec<_>>();
    eventually("all of it", SOON, || (texts() == ["one", "two", "three"]).then_some(()));
    let of_other = turns(&node, &other);
    assert_eq!((of_other.len(), &of_other[0]["text"]), (2, &json!("hello")));
    node.turn(&other, "[[big 1000000]]");
    assert_eq!(turns(&node, &other)[2]["text"].as_str().unwrap().len(), 1_000_000);
}

#[test]
fn a_turn_is_read_soon_from_a_transcript_of_50_mb() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    let mut all = Vec::new();
    for n in 0..10 {
        all.push(node.turn(&session, &format!("[[items 500 10000]] [[say turn {n}]]")));
    }
    let size = fs::metadata(folder(&node).join(format!("{session}.jsonl"))).unwrap().len();
    assert!(size > 50_000_000, "{size}");
    let timed = |what: &dyn Fn() -> Value| {
        let started = std::time::Instant::now();
        (what(), started.elapsed())
    };
    let (one, took) = timed(&|| get(&node.url(&format!("/v1/codexd/turns/{}", all[9]))).data(200));
    assert_eq!(one["turn"]["text"], "turn 9");
    let (page, page_took) = timed(&|| transcript(&node, &session, "?limit=1"));
    assert_eq!(page["turns"][0]["text"], "turn 9");
    let (old, old_took) = timed(&|| get(&node.url(&format!("/v1/codexd/turns/{}", all[0]))).data(200));
    assert_eq!(old["turn"]["text"], "turn 0");
    figures::print(&format!(
        "from a transcript of {} MB: a turn in {took:?}, a page in {page_took:?}, a turn found in the log in {old_took:?}",
        size / 1_000_000
    ));
    assert!(took < Duration::from_millis(500) && page_took < Duration::from_secs(2));
    let (mut found, mut query) = (0, String::new());
    loop {
        let page = transcript(&node, &session, &query);
        found += page["turns"].as_array().unwrap().len();
        let Some(next) = page["nextCursor"].as_str() else { break };
        query = format!("?cursor={next}");
    }
    assert_eq!(found, 10, "in as many pages as it takes");
}
