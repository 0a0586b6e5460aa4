//! The end of a codexd, in any way, and the next one on the same folders: what was shown stands, and numbers go on.

use std::time::{Duration, Instant};
use std::{fs, thread};

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::get;
use e2e::node::Node;
use e2e::reader::{FLOOD, Reader, seq};
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

/// What of its sessions nothing may change, in their order.
fn sessions(node: &Node) -> Vec<Value> {
    let list = get(&node.url("/v1/codexd/sessions")).data(200);
    let keys = ["sessionId", "purpose", "status", "createdAt", "cwd", "model", "metadata"];
    let of = |session: &Value| keys.iter().map(|key| session[key].clone()).collect();
    list["sessions"].as_array().unwrap().iter().map(of).collect()
}

/// The lines of the log, which must be numbered without a gap.
#[track_caller]
fn gapless(node: &Node) -> Vec<String> {
    let lines = node.lines();
    for pair in lines.windows(2) {
        assert_eq!(seq(&pair[0]) + 1, seq(&pair[1]));
    }
    lines
}

fn statuses(node: &Node, sessions: &[&String]) -> Vec<Value> {
    sessions.iter().map(|session| node.read(session)["lastTurnStatus"].take()).collect()
}

#[test]
fn after_a_kill_sessions_numbers_and_conversations_go_on() {
    for codex in Codex::both() {
        killed(&codex);
    }
}

fn killed(codex: &Codex) {
    let mut node = Node::start(codex, &[]);
    let done = node.session(json!({"metadata": {"of": "done"}}));
    let fresh = node.session(json!({"purpose": "worker"}));
    let busy = node.session(json!({}));
    node.turn(&done, "[[say first]]");
    // More than it will come to say.
    let (talk, enough) = match codex {
        Codex::Fake => ("[[items 1000000 200]]", 3000),
        Codex::Real(_) => ("[[say-slow 1000 one two three four five six]]", 2),
    };
    for round in 0..3 {
        let before = sessions(&node);
        let mut reader = Reader::open(&node, Some(0));
        let turn = node.say(&busy, talk);
        let (enough, mut shown) = (node.latest() + enough, Vec::new());
        while reader.last < enough {
            shown.push(reader.next(FLOOD).unwrap());
        }
        node.codexd.kill();
        while let Some(line) = reader.next(SOON) {
            shown.push(line);
        }
        node.crash();

        let mut again = Reader::open(&node, Some(reader.last));
        assert_eq!(again.log_id, reader.log_id);
        assert_eq!(sessions(&node), before, "round {round}");
        assert_eq!(node.end(&busy, &turn, SOON), "interrupted");
        for session in [&done, &fresh, &busy] {
            node.turn(session, "[[say again]]");
        }
        let latest = node.latest();
        again.read_to(latest);
        assert_eq!((again.gaps, reader.gaps), (vec![], vec![]));
        let lines = gapless(&node);
        assert!(seq(&lines[0]) == 1 && lines.len() as u64 >= latest);
        for (shown, line) in shown.iter().zip(&lines) {
            assert_eq!(shown.as_str(), line, "what was shown stands");
        }
    }
    let told = |line: &String| line.contains(r#""type":"session.resumed""#) && line.contains(&done);
    assert_eq!(
        node.lines().iter().filter(|line| told(line)).count(),
        3,
        "its thread was loaded anew each time"
    );
}

#[test]
fn after_a_stop_in_good_order_numbers_go_on_too() {
    let mut node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    node.turn(&session, "[[say first]]");
    let before = sessions(&node);
    let mut reader = Reader::open(&node, Some(0));
    node.codexd.signal("TERM");
    while reader.next(SOON).is_some() {}
    node.codexd.wait(SOON).unwrap();
    let lines = gapless(&node);
    assert_eq!(lines.len() as u64, reader.last, "readers get the last word before they are closed");
    assert!(lines.last().unwrap().contains("daemon.stopping"), "{:?}", lines.last());

    node.crash();
    assert_eq!(sessions(&node), before);
    let mut again = Reader::open(&node, Some(reader.last));
    assert!(again.next(SOON).unwrap().contains("daemon.started"));
    node.turn(&session, "[[say second]]");
    again.read_to(node.latest());
    gapless(&node);
}

/// Bytes of the log on disk.
fn disk(node: &Node) -> u64 {
    node.segments().iter().filter_map(|path| fs::metadata(path).ok()).map(|data| data.len()).sum()
}

#[test]
fn a_log_that_overflows_stays_small_and_forgets_no_session() {
    const MIB: u64 = 1024 * 1024;
    let (segment, total) = ((MIB).to_string(), (2 * MIB).to_string());
    let mut node = Node::start(&Codex::Fake, &["--log-segment-bytes", &segment, "--log-total-bytes", &total]);
    let (one, other) = (node.session(json!({"metadata": {"n": 1}})), node.session(json!({})));
    node.turn(&other, "[[say long ago]]");
    let before = sessions(&node);
    let mut still = Reader::open(&node, Some(0));

    let turn = node.say(&one, "[[items 40000 1000]]");
    let (mut most, started) = (0, Instant::now());
    while node.read(&one)["lastTurnStatus"] != "completed" {
        most = most.max(disk(&node));
        assert!(started.elapsed() < FLOOD);
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(node.end(&one, &turn, SOON), "completed");
    let written = 40_000 * 1000;
    // Segments wait for the checkpoints that cover them, of which the older counts: a few more than are wanted.
    assert!(most < 8 * MIB, "{most} bytes");
    figures::print(&format!(
        "a log bounded to 2 MiB had at most {most} bytes while over {written} were written"
    ));

    for round in 0..3 {
        let latest = node.latest();
        still.read_to(latest);
        assert!(round > 0 || !still.gaps.is_empty(), "it stood still too long to get everything");
        let mut late = Reader::open(&node, Some(1));
        late.read_to(latest);
        assert_eq!(late.gaps, [(2, late.oldest - 1)], "round {round}");
        let lines = gapless(&node);
        assert_eq!(seq(&lines[0]), late.oldest);
        assert_eq!(seq(lines.last().unwrap()), latest);

        if round == 1 {
            node.restart()
        } else {
            node.crash()
        };
        assert_eq!(sessions(&node), before, "round {round}");
        assert_eq!(statuses(&node, &[&one, &other]), ["completed", "completed"]);
        let recent = get(&node.url(&format!("/v1/codexd/sessions/{other}"))).data(200)["recentEvents"].take();
        let types: Vec<_> = recent.as_array().unwrap().iter().map(|event| &event["type"]).collect();
        assert_eq!(
            types,
            ["turn.accepted", "app-server.turn.completed"],
            "of a turn that the log has forgotten"
        );

        let mut again = Reader::open(&node, Some(still.last));
        assert_eq!(again.log_id, still.log_id);
        again.read_to(node.latest());
        assert_eq!(again.gaps, []);
        node.turn(&one, "[[say more]]");
        still = again;
    }
    let folder = node.dir.path().join("logs/codexd");
    eventually("a small log", SOON, || (disk(&node) <= 3 * MIB).then_some(()));
    let names = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|name| name.contains("damaged")));
}

#[test]
fn many_short_lives_do_not_make_the_log_grow() {
    const MIB: u64 = 1024 * 1024;
    let (segment, total) = (MIB.to_string(), (2 * MIB).to_string());
    let mut node = Node::start(&Codex::Fake, &["--log-segment-bytes", &segment, "--log-total-bytes", &total]);
    let session = node.session(json!({}));
    // No life closes two segments, so none writes two checkpoints.
    for life in 0..12 {
        node.turn(&session, "[[items 600 1000]]");
        let bytes = disk(&node);
        assert!(bytes < 5 * MIB, "{bytes} bytes in life {life}");
        node.crash();
    }
}
