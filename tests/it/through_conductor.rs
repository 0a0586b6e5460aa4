//! The event stream through conductor: the same as codexd's own, with its back-pressure, and over with either side.

use std::thread;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::figures;
use e2e::http::{get, post, raw, request};
use e2e::node::{Node, conductor};
use e2e::process::Daemon;
use e2e::reader::Reader;
use e2e::wait::{SOON, eventually};
use e2e::websocket::{Got, Socket};
use serde_json::json;

use crate::codexd::Codexd;
use crate::driver::Driver;
use crate::scenarios::{self, completed};

const UPGRADE: [(&str, &str); 4] = [
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];
/// The end of one side is heard at the other within so long, on a loaded machine too.
const HEARD: Duration = Duration::from_secs(2);

fn bench() -> (Node, Daemon, String) {
    let node = Node::start(&Codex::Fake, &[]);
    let conductor = conductor(&node.dir, node.codexd.url());
    let events = format!("{}/v1/codex/events", conductor.url());
    (node, conductor, events)
}

/// Threads and resident KB of a daemon.
#[cfg(target_os = "linux")]
fn cost(daemon: &Daemon) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (number("Threads:"), number("VmRSS:"))
}

#[test]
fn all_that_codexd_can_do_it_does_through_conductor() {
    for scenario in [scenarios::interrupt, scenarios::steer, scenarios::command_accepted, scenarios::question]
    {
        scenario(&mut Codexd::behind_conductor(Codex::Fake));
    }
    let mut codexd = Codexd::behind_conductor(Codex::Fake);
    let session = codexd.open(json!({}));
    let turn = codexd.say(&session, "[[say read me back]]", json!({}));
    completed(&mut codexd, &turn);
    let read = get(&codexd.url(&format!("turns/{turn}?waitMs=20000"))).data(200);
    assert_eq!(
        (&read["turn"]["status"], &read["turn"]["text"]),
        (&json!("completed"), &json!("read me back"))
    );
    let transcript = get(&codexd.url(&format!("sessions/{session}/transcript"))).data(200);
    assert!(transcript["turns"].to_string().contains("read me back"), "{transcript}");
    assert_eq!(get(&codexd.url("approvals")).data(200)["approvals"], json!([]));
    assert!(get(&codexd.url("models")).data(200)["models"].is_array());
    let body = json!({"sessionId": session, "input": "[[say at once]]"});
    let waited = post(&codexd.url("turn?waitMs=20000"), &body).data(200);
    assert_eq!(waited["turn"]["text"], "at once");
    let close = codexd.url(&format!("sessions/{session}/close"));
    for _ in 0..2 {
        assert_eq!(request("POST", &close, &[], b"").data(200)["session"]["status"], "closed");
    }
    let late = post(&codexd.url("turn"), &body).failure(409, "conflict");
    assert_eq!(late["details"]["upstream_error"], "conflict");
}

#[test]
fn a_websocket_through_conductor_is_one_of_codexd() {
    let (node, _conductor, events) = bench();
    let session = node.session(json!({}));
    let mut live = Reader::at(&events, None);
    node.turn(&session, "[[items 2000 100]]");
    live.read_on();
    let (mut late, mut from_ten) = (Reader::at(&events, Some(0)), Reader::at(&events, Some(10)));
    late.read_to(live.last);
    from_ten.read_to(live.last);
    assert_eq!((late.count, from_ten.count), (live.last, live.last - 10));
    assert_eq!(node.status()["service"]["websocketClients"], 3);
    // The client's own messages pass too: its goodbye is answered.
    let mut socket = Socket::connect(&events, &[]).unwrap();
    socket.text(SOON);
    socket.close();
    assert!(matches!(socket.next(SOON), Got::Closed(..)));
    drop((live, late, from_ten, socket));
    eventually("readers that are gone", SOON, || {
        (node.status()["service"]["websocketClients"] == 0).then_some(())
    });
}

#[test]
fn sixty_four_through_conductor_get_all_and_one_that_stands_still_costs_nothing() {
    #[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
    // it lives on; measured it is where /proc tells
    let (node, conductor, events) = bench();
    let session = node.session(json!({}));
    node.ready();
    #[cfg(target_os = "linux")]
    let before = cost(&conductor);
    let mut still = Reader::at(&events, Some(0));
    let mut readers: Vec<_> = (0..63).map(|n| Reader::at(&events, (n % 2 == 0).then_some(0))).collect();
    let refused = request("GET", &events, &UPGRADE, b"");
    let told = refused.failure(503, "overloaded");
    assert_eq!(told["details"]["upstream_error"], "overloaded");
    assert!(refused.header("retry-after").is_some(), "{:?}", refused.headers);

    let start = Instant::now();
    node.say(&session, "[[items 20000 1000]]");
    let end = thread::scope(|scope| {
        let ends: Vec<_> = readers.iter_mut().map(|reader| scope.spawn(|| reader.read_on())).collect();
        let ends: Vec<_> = ends.into_iter().map(|end| end.join().unwrap()).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        ends[0]
    });
    figures::print(&format!(
        "63 readers through conductor had {end} events of 1 KB after {:.1?}",
        start.elapsed()
    ));
    #[cfg(target_os = "linux")]
    {
        let (threads, resident) = cost(&conductor);
        figures::print(&format!(
            "conductor with 64 tunnels: {threads} threads, {resident} KB; {before:?} before"
        ));
        assert!(resident < before.1 + 20 * 1024, "{resident} KB after {} KB", before.1);
    }
    thread::sleep(Duration::from_secs(10).saturating_sub(start.elapsed()));
    still.read_to(end);
    assert_eq!((still.count, &still.gaps), (end, &vec![]), "it has seen all there ever was");
    drop((still, readers));
    #[cfg(target_os = "linux")]
    eventually("threads that are gone", SOON, || (cost(&conductor).0 <= before.0).then_some(()));
}

#[test]
fn a_codexd_that_is_killed_ends_its_streams_at_once() {
    let (mut node, conductor, events) = bench();
    let session = node.session(json!({}));
    let mut idle = Socket::connect(&events, &[]).unwrap();
    idle.text(SOON);
    let url = conductor.url().to_owned();
    let asked = b"GET /v1/codex/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    let sse = thread::spawn(move || String::from_utf8(raw(&url, asked)).unwrap());
    let mut busy = Reader::at(&events, Some(0));
    node.say(&session, "[[items 200000 1000]]");
    busy.next(SOON);
    let mut still = Socket::connect(&format!("{events}?after=0"), &[]).unwrap(); // with much on its way to it
    still.text(SOON);
    thread::sleep(Duration::from_millis(300));

    node.codexd.kill();
    let start = Instant::now();
    while busy.next(HEARD).is_some() {}
    let mut idle_end = idle.next(HEARD);
    while matches!(idle_end, Got::Text(_)) {
        idle_end = idle.next(HEARD);
    }
    assert_eq!(idle_end, Got::Closed(1006, String::new()));
    let took = start.elapsed();
    assert!(took < HEARD, "{took:?}");
    figures::print(&format!("kill -9 of codexd in mid-stream: both ends heard after {took:.1?}"));
    let told = sse.join().unwrap();
    assert!(told.contains("\ndata: ") && !told.ends_with("0\r\n\r\n"), "it is no whole one: {told}");
    while matches!(still.next_raw(HEARD), Got::Text(_)) {} // what was on its way
    assert!(matches!(still.next_raw(HEARD), Got::Closed(..)));
    drop((busy, idle, still));

    for headers in [&UPGRADE[..], &[("accept", "text/event-stream")], &[]] {
        request("GET", &events, headers, b"").failure(503, "codexd_unavailable");
    }
    #[cfg(target_os = "linux")]
    eventually("threads that are gone", SOON, || (cost(&conductor).0 <= 4).then_some(()));
    drop(conductor);
}

#[test]
fn a_client_that_vanishes_ends_its_tunnel_in_mid_flood() {
    let (node, conductor, events) = bench();
    let session = node.session(json!({}));
    node.say(&session, "[[items 50000 1000]]");
    let mut still: Vec<_> =
        (0..8).map(|_| Socket::connect(&format!("{events}?after=0"), &[]).unwrap()).collect();
    still.iter_mut().for_each(|socket| assert_eq!(socket.text(SOON)["type"], "stream.hello"));
    thread::sleep(Duration::from_millis(500)); // until all that is between holds no more
    drop(still);
    let start = Instant::now();
    eventually("seats", HEARD, || (node.status()["service"]["websocketClients"] == 0).then_some(()));
    figures::print(&format!("8 readers that left in mid-flood were gone after {:.1?}", start.elapsed()));
    #[cfg(target_os = "linux")]
    eventually("threads that are gone", SOON, || (cost(&conductor).0 <= 4).then_some(()));
    drop(conductor);
}

#[test]
fn a_conductor_that_stops_ends_its_tunnels() {
    let (node, mut conductor, events) = bench();
    let mut socket = Socket::connect(&events, &[]).unwrap();
    socket.text(SOON);
    let start = Instant::now();
    assert_eq!(conductor.terminate(SOON).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    while !matches!(socket.next(HEARD), Got::Closed(..)) {}
    eventually("the seat", HEARD, || (node.status()["service"]["websocketClients"] == 0).then_some(()));
}
