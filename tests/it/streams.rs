//! Readers of events: each gets all of them in order, at its own pace, and costs the others nothing.

use std::thread;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::{Events, request};
use e2e::node::Node;
use e2e::reader::{Reader, seq};
use e2e::wait::SOON;
use e2e::websocket::{Got, Socket};
use serde_json::{Value, json};

/// Readers at once that codexd takes.
const READERS: usize = 64;
fn connect(node: &Node, query: &str) -> Result<Socket, u16> {
    Socket::connect(&node.url(&format!("/v1/codexd/events{query}")), &[])
}

fn sse(node: &Node, query: &str, headers: &[(&str, &str)]) -> Events {
    let events = Events::open("GET", &node.url(&format!("/v1/codexd/events{query}")), headers, b"");
    assert_eq!(events.status, 200);
    events
}

#[test]
fn sixty_four_readers_get_all_of_a_flood_and_one_that_stands_still_hinders_none() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    let mut readers: Vec<_> =
        (0..READERS - 1).map(|n| Reader::open(&node, (n % 2 == 0).then_some(0))).collect();
    let mut still = Reader::open(&node, Some(0));

    assert_eq!(connect(&node, "").err(), Some(503), "one more");
    let url = node.url("/v1/codexd/events");
    let refused = request("GET", &url, &[("accept", "text/event-stream")], b"");
    refused.failure(503, "overloaded");
    assert!(refused.header("retry-after").is_some(), "{:?}", refused.headers);

    // More than the system's buffers hold, so that codexd itself cannot go on writing to the one that stands still.
    let stopped = Instant::now();
    let turn = node.say(&session, "[[items 20000 1000]]");
    let end = thread::scope(|scope| {
        let ends: Vec<_> = readers.iter_mut().map(|reader| scope.spawn(|| reader.read_on())).collect();
        let ends: Vec<_> = ends.into_iter().map(|end| end.join().unwrap()).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        ends[0]
    });
    let took = stopped.elapsed();
    figures::print(&format!("64 readers: 63 had {} events of 1 KB after {took:.1?}, one stood still", end));
    assert!(readers.iter().all(|reader| reader.count > 20_000 && reader.gaps.is_empty()));
    assert_eq!(node.end(&session, &turn, SOON), "completed");

    thread::sleep(Duration::from_secs(30).saturating_sub(stopped.elapsed()));
    node.turn(&session, "[[say still live]]");
    let end = readers.iter_mut().map(Reader::read_on).max().unwrap();
    still.read_to(end);
    assert_eq!((still.count, still.gaps), (end, vec![]), "it has seen all there ever was");
}

#[test]
fn one_that_begins_at_the_first_of_a_million_gets_them_all_beside_live_ones() {
    let node = Node::start(&Codex::Fake, &["--log-total-bytes", "1073741824"]);
    let session = node.session(json!({}));
    let mut live: Vec<_> = (0..4).map(|_| Reader::open(&node, None)).collect();

    let started = Instant::now();
    node.say(&session, "[[items 1000000]]");
    thread::scope(|scope| live.iter_mut().for_each(|reader| drop(scope.spawn(|| reader.read_on()))));
    let flooded = started.elapsed();
    assert!(live.iter().all(|reader| reader.count > 1_000_000 && reader.gaps.is_empty()));

    node.say(&session, "[[items 50000]]");
    let started = Instant::now();
    let mut late = Reader::open(&node, Some(0));
    let live_ends = thread::scope(|scope| {
        scope.spawn(|| {
            late.read_on();
            late.read_on()
        });
        let ends: Vec<_> = live.iter_mut().map(|reader| scope.spawn(|| reader.read_on())).collect();
        ends.into_iter().map(|end| end.join().unwrap()).collect::<Vec<_>>()
    });
    let caught_up = started.elapsed();
    assert_eq!(live_ends, [late.last; 4]);
    assert_eq!((late.count, late.gaps), (late.last, vec![]), "from the first to the last");
    figures::print(&format!(
        "a million events written and read live by 4 in {flooded:.1?}; all {} read by one that came late in {caught_up:.1?}",
        late.count
    ));
}

#[test]
fn a_stream_begins_where_it_is_asked_to() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    node.turn(&session, "[[say one]]");
    let latest = node.latest();

    let mut socket = connect(&node, "?after=3").unwrap();
    let hello = socket.text(SOON);
    assert_eq!((&hello["type"], &hello["oldestSeq"]), (&json!("stream.hello"), &json!(1)));
    assert_eq!(hello["latestSeq"], latest);
    assert_eq!(hello["logId"].as_str().unwrap().len(), 32);
    let first = socket.text(SOON);
    assert_eq!(first["seq"], 4);
    for key in ["createdAt", "level", "type", "message", "detail"] {
        assert!(!first[key].is_null(), "{key}: {first}");
    }

    let mut live = connect(&node, "").unwrap();
    live.text(SOON);
    assert_eq!(live.next(Duration::from_millis(100)), Got::Nothing, "only what is new");
    node.turn(&session, "[[say two]]");
    assert_eq!(live.text(SOON)["seq"], latest + 1);

    assert_eq!(connect(&node, "?after=x").err(), Some(400));
    assert_eq!(connect(&node, "?after=-1").err(), Some(400));
}

#[test]
fn a_place_beyond_the_log_is_told_as_a_gap_and_live_events_follow() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    node.turn(&session, "[[say hello]]");
    let latest = node.latest();
    let gap = json!({"type": "stream.gap", "fromSeq": latest + 1, "toSeq": latest + 1000});
    let query = format!("?after={}", latest + 1000);

    let mut socket = connect(&node, &query).unwrap();
    let mut events = sse(&node, &query, &[]);
    assert_eq!(socket.text(SOON)["type"], "stream.hello");
    assert_eq!(socket.text(SOON), gap);
    let (hello, told) = (events.next_data().unwrap(), events.next_data().unwrap());
    assert_eq!((hello.id, told.id.as_ref()), (None, None), "neither is an event");
    assert_eq!(told.json(), gap);

    node.turn(&session, "[[say hello]]");
    assert_eq!(socket.text(SOON)["seq"], latest + 1);
    assert_eq!(events.next_data().unwrap().id, Some((latest + 1).to_string()));
}

#[test]
fn server_sent_events_are_the_same_and_go_on_where_they_were_cut() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    node.turn(&session, "[[items 2000 100]]");
    let latest = node.latest();

    let mut events = sse(&node, "?after=0", &[]);
    let hello = events.next_data().unwrap();
    assert_eq!((hello.json()["type"].as_str(), hello.id), (Some("stream.hello"), None));
    let lines = node.lines();
    assert_eq!(lines.len() as u64, latest);
    for line in &lines[..1000] {
        let block = events.next_data().unwrap();
        assert_eq!((block.id, block.event), (Some(seq(line).to_string()), None));
        assert_eq!(&block.data, line, "byte for byte what the log holds");
    }
    drop(events);

    // What a browser sends on its own is newer than what its page once asked for.
    let mut events = sse(&node, "?after=3", &[("last-event-id", "1000")]);
    events.next_data().unwrap();
    for line in &lines[1000..] {
        assert_eq!(&events.next_data().unwrap().data, line);
    }
    node.turn(&session, "[[say live]]");
    assert_eq!(events.next_data().unwrap().id, Some((latest + 1).to_string()));
}

#[test]
fn a_reader_of_one_session_gets_that_session_alone() {
    let node = Node::start(&Codex::Fake, &[]);
    let (one, other) = (node.session(json!({})), node.session(json!({})));
    let mut live = connect(&node, &format!("?sessionId={one}")).unwrap();
    let mut live_sse = sse(&node, &format!("?sessionId={one}"), &[]);
    let began = live.text(SOON)["latestSeq"].as_u64().unwrap();
    let began_sse = live_sse.next_data().unwrap().json()["latestSeq"].as_u64().unwrap();
    // What others say of it is no event of it, in whatever form.
    node.session(json!({"metadata": {"sessionId": one}}));
    let turns = [node.say(&one, &format!("about {other}")), node.say(&other, &format!("about {one}"))];
    for (session, turn) in [&one, &other].into_iter().zip(&turns) {
        assert_eq!(node.end(session, turn, SOON), "completed");
    }
    let of_one = |line: &String| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["detail"]["sessionId"] == one.as_str()
    };
    let lines = node.lines();
    let expected: Vec<_> = lines.iter().filter(|line| of_one(line)).map(|line| seq(line)).collect();
    assert!(expected.len() > 8, "{expected:?}");

    let mut replayed = connect(&node, &format!("?sessionId={one}&after=0")).unwrap();
    replayed.text(SOON);
    let seqs = expected.iter().map(|_| replayed.text(SOON)["seq"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(seqs, expected);

    for seq in expected.iter().filter(|seq| **seq > began) {
        assert_eq!(live.text(SOON)["seq"], *seq);
    }
    for seq in expected.iter().filter(|seq| **seq > began_sse) {
        assert_eq!(live_sse.next_data().unwrap().id, Some(seq.to_string()));
    }
}
