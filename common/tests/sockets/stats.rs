//! What the server counts of itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::{Node, get, post, wait};

fn answers(node: &Node, route: &str, code: &str) -> f64 {
    node.sample(&format!("baa_http_request_duration_seconds_count{{route=\"{route}\",code=\"{code}\"}}"))
}

#[test]
fn every_answer_counts_once_by_its_row_and_status() {
    let node = Node::with(|limits| limits.body_bytes = 10);
    let mut kept = node.client();
    for _ in 0..3 {
        kept.send(get("/items/7"));
        assert_eq!(kept.reply().status, 200);
    }
    let chunked = "POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n";
    for (raw, route, code) in [
        (get("/nothing"), "none", "404"),
        (post("/echo", "", ""), "none", "405"),
        ("nonsense\r\n\r\n".to_string(), "none", "400"),
        (get("/items/7").replace("localhost", "evil.example"), "none", "403"),
        (post("/body", "", "01234567890"), "none", "413"),
        (chunked.to_string(), "body", "413"),
        (post("/secret", "", ""), "secret", "401"),
        (get("/echo?limit=11"), "echo", "400"),
        (get("/panic"), "panic", "500"),
        (get("/ws/echo").replace("\r\n\r\n", "\r\nUpgrade: websocket\r\n\r\n"), "ws.echo", "400"),
    ] {
        let before = answers(&node, route, code);
        assert_eq!(node.ask(&raw).status.to_string(), code, "{raw}");
        assert_eq!(answers(&node, route, code), before + 1.0, "{raw}");
    }
    assert_eq!(answers(&node, "item", "200"), 3.0);
}

#[test]
fn the_time_is_that_to_the_answer() {
    let node = Node::start();
    let mut held = node.client();
    held.send(get("/hold"));
    wait("it runs", || node.state.running.load(Ordering::SeqCst) == 1);
    std::thread::sleep(Duration::from_millis(200));
    node.state.release.store(true, Ordering::SeqCst);
    assert_eq!(held.reply().status, 200);
    let took = node.sample("baa_http_request_duration_seconds_sum{route=\"hold\",code=\"200\"}");
    assert!((0.2..20.0).contains(&took), "{took}");
}

#[test]
fn what_is_open_counts_while_it_is() {
    let node = Node::with(|limits| {
        limits.connections = 4;
        limits.reserved = 0;
    });
    assert_eq!(node.sample("baa_http_connections_limit"), 4.0);
    let names = ["baa_http_connections_open", "baa_http_streams_open", "baa_http_websockets_open"];
    let open = || names.map(|name| node.sample(name));
    let mut stream = node.client();
    stream.send(get("/endless"));
    wait("a stream", || open() == [1.0, 1.0, 0.0]);
    let mut socket = node.client();
    socket.send(get("/ws/echo").replace(
        "\r\n\r\n",
        "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ));
    wait("a WebSocket", || open() == [2.0, 1.0, 1.0]);
    assert_eq!((answers(&node, "endless", "200"), answers(&node, "ws.echo", "101")), (1.0, 1.0));
    let mut body = node.client();
    body.send("POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx");
    wait("a body in memory", || node.sample("baa_http_request_bodies_bytes") > 0.0);
    let mut large = node.client();
    large.send(get("/large/20000000"));
    wait("a large answer in memory", || node.sample("baa_http_large_answers_bytes") > 20_000_000.0);
    assert_eq!(node.client().reply().status, 503);
    assert_eq!(node.sample("baa_http_connections_refused_total"), 1.0);
    drop((stream, socket, body, large));
    wait("all is given back", || open() == [0.0; 3]);
    let held = ["baa_http_request_bodies_bytes", "baa_http_large_answers_bytes"];
    assert_eq!(held.map(|name| node.sample(name)), [0.0; 2]);
}
