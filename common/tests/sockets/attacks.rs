//! What hostile and broken clients do not achieve: each costs its own connection and nothing more.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::{Client, Node, get, post, wait};

/// The request is refused with this status and code, and the connection ends.
#[track_caller]
fn refused(node: &Node, raw: impl AsRef<[u8]>, status: u16, code: &str) {
    let mut client = node.client();
    client.send(raw.as_ref());
    let reply = client.reply();
    let raw = String::from_utf8_lossy(&raw.as_ref()[..raw.as_ref().len().min(200)]).into_owned();
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{raw:?}");
    assert_eq!(reply.header("connection"), Some("close"), "{raw:?}");
    client.assert_closed();
}

#[test]
fn heads_that_two_readers_could_read_in_two_ways_are_refused() {
    let node = Node::start();
    let one = |lines: &str| format!("GET /probe HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    for raw in [
        "\r\nGET /probe HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string(),
        "GET /probe HTTP/1.1\nHost: localhost\n\n".to_string(),
        one("X: 1\nY: 2\r\n"),
        one("X: 1\rY: 2\r\n"),
        one("X: a\0b\r\n"),
        one("X: 1\r\n folded\r\n"),
        one(" X: 1\r\n"),
        one("X : 1\r\n"),
        one("X\r\n"),
        one("Host: localhost\r\n"),
        "GET /probe HTTP/1.1\r\n\r\n".to_string(),
        "GET /probe HTTP/1.1 \r\nHost: localhost\r\n\r\n".to_string(),
        "GET  /probe HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string(),
        "GET http://localhost/probe HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string(),
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string(),
        "CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string(),
        "GET probe HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string(),
        "GET /probe\r\n\r\n".to_string(),
        one("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        one("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
        one("Transfer-Encoding: gzip, chunked\r\n"),
        one("Transfer-Encoding: identity\r\n"),
        one("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        one("Content-Length: 3\r\nContent-Length: 3\r\n"),
        one("Content-Length: 3, 3\r\n"),
        one("Content-Length: +5\r\n"),
        one("Content-Length: -5\r\n"),
        one("Content-Length: 0x5\r\n"),
        one("Content-Length: 5 5\r\n"),
        one("Content-Length:\r\n"),
        one("Origin: a\r\nOrigin: b\r\n"),
        "POST /body HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_string(),
        "\u{16}\u{3}\u{1}\u{0}\u{5}".to_string(),
    ] {
        refused(&node, raw, 400, "invalid_request");
    }
    refused(&node, b"GET /probe HTTP/1.1\r\nHost: localhost\r\nX: \xff\r\n\r\n", 400, "invalid_request");
    node.assert_healthy();
}

#[test]
fn other_versions_are_refused_by_name() {
    let node = Node::start();
    let code = "http_version_not_supported";
    refused(&node, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, code);
    refused(&node, "GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505, code);
    refused(&node, "GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", 505, code);
    refused(&node, "GET / HTTP/0.9\r\n\r\n", 505, code);
}

#[test]
fn heads_over_their_bounds_are_refused() {
    let node = Node::start();
    let headers = |count: usize| (0..count).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    let raw = |lines: &str| format!("GET /probe HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    assert_eq!(node.ask(&raw(&headers(99))).status, 200);
    refused(&node, raw(&headers(100)), 431, "headers_too_large");
    refused(&node, raw(&format!("X: {}\r\n", "x".repeat(16 * 1024))), 431, "headers_too_large");
    refused(&node, format!("GET /{}", "x".repeat(20 * 1024)), 431, "headers_too_large");
    assert_eq!(node.ask(&raw(&format!("X: {}\r\n", "x".repeat(15 * 1024)))).status, 200);
}

#[test]
fn a_head_that_dribbles_is_cut_at_its_deadline() {
    let node = Node::with(|limits| limits.head = Duration::from_millis(200));
    let mut client = node.client();
    client.send("GET /probe HTTP/1.1\r\n");
    client.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut answer = [0; 4096];
    // each byte comes well within the deadline, all of them do not
    for sent in 0.. {
        assert!(sent < 500, "the deadline restarts with each byte");
        let _ = client.stream.write(b"x");
        match client.stream.read(&mut answer) {
            Ok(read) => {
                let text = String::from_utf8_lossy(&answer[..read]);
                assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("request_timeout"), "{text}");
                break;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    node.assert_healthy();
}

#[test]
fn silence_is_closed_without_a_word() {
    let node = Node::with(|limits| {
        limits.head = Duration::from_millis(50);
        limits.idle = Duration::from_millis(50);
    });
    node.client().assert_closed();
    let mut client = node.client();
    client.send(get("/probe"));
    assert_eq!(client.reply().status, 200);
    client.assert_closed();
}

#[test]
fn lengths_that_lie_cost_no_memory_and_no_thread() {
    let node = Node::with(|limits| limits.body = Duration::from_millis(100));
    let raw = |length: &str| {
        format!("POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\nabc")
    };
    for length in ["16777217", "1000000000000000", "18446744073709551615", "99999999999999999999999999"] {
        refused(&node, raw(length), 413, "payload_too_large");
    }
    refused(&node, raw("16777216"), 408, "request_timeout");
    // the client that leaves in the middle is told nothing
    let mut client = node.client();
    client.send(raw("100"));
    client.shut_sending();
    client.assert_closed();
    wait("connections end", || node.connections() == 0);
}

#[test]
fn bad_chunks_are_refused() {
    let node = Node::with(|limits| limits.body = Duration::from_millis(200));
    let head = "POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let endless = format!("3;{}", "x".repeat(300));
    let trailers = format!("0\r\n{}\r\n", "X-Trailer: 1234567890\r\n".repeat(300));
    for body in [
        "x\r\n",
        "\r\n",
        "+3\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "-1\r\n",
        "123456789\r\n",
        "3;\r\r\nabc",
        &endless,
        &trailers,
    ] {
        refused(&node, format!("{head}{body}"), 400, "invalid_request");
    }
    refused(&node, format!("{head}ffffffff\r\nabc"), 413, "payload_too_large");
    refused(&node, format!("{head}3\r\nabc\r\n"), 408, "request_timeout");
}

#[test]
fn large_answers_that_nobody_takes_are_bounded_together() {
    let node = Node::with(|limits| limits.answers_bytes = 75_000_000);
    let raw = get("/large/30000000"); // more than the sockets of both sides hold
    let ask = |node: &Node| {
        let mut client = node.client();
        client.send(&raw);
        let status = client.head()[9..12].to_owned();
        (client, status)
    };
    let idle = [ask(&node), ask(&node)];
    assert_eq!((idle[0].1.as_str(), idle[1].1.as_str()), ("200", "200"));
    assert_eq!(ask(&node).1, "503", "a third one would be too many");
    let mut acts = node.client();
    acts.send(post("/deed/30000000", "", "{}"));
    assert_eq!(&acts.head()[9..12], "200", "who was done something for is told, or it would be done again");
    drop(acts);
    node.assert_healthy(); // small ones do not count
    drop(idle);
    wait("there is room again", || ask(&node).1 == "200");
}

#[test]
fn bodies_are_bounded_each_and_together() {
    let node = Node::with(|limits| {
        limits.body_bytes = 100_000;
        limits.bodies_bytes = 250_000;
    });
    let largest = "x".repeat(100_000);
    let chunked = |body: &str| {
        let head = "POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (a, b) = body.split_at(body.len() / 2);
        format!("{head}{:x}\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n", a.len(), b.len())
    };
    assert_eq!(node.ask(&post("/body", "", &largest)).json()["data"]["bytes"], 100_000);
    assert_eq!(node.ask(&chunked(&largest)).json()["data"]["bytes"], 100_000);
    refused(&node, post("/body", "", &format!("{largest}x")), 413, "payload_too_large");
    refused(&node, chunked(&format!("{largest}xx")), 413, "payload_too_large");

    // three in flight are more than fit: the late ones are told so, the others are not disturbed
    let raw = post("/body", "", &largest);
    let mut clients: Vec<Client> = (0..3).map(|_| node.client()).collect();
    clients.iter_mut().for_each(|client| client.send(&raw[..100_000]));
    let answered = |client: &Client| {
        client.stream.set_nonblocking(true).unwrap();
        let seen = client.stream.peek(&mut [0]).is_ok();
        client.stream.set_nonblocking(false).unwrap();
        seen
    };
    wait("one is refused", || clients.iter().any(answered));
    let mut codes = Vec::new();
    for client in &mut clients {
        let _ = client.stream.write_all(&raw.as_bytes()[100_000..]);
        let reply = client.reply();
        assert_eq!(reply.header("retry-after").is_some(), reply.status == 503);
        codes.push(reply.code());
    }
    codes.sort();
    codes.dedup();
    assert_eq!(codes, ["none", "overloaded"]);
    assert_eq!(node.ask(&raw).status, 201, "all of it was given back");
}

#[test]
fn the_last_connections_serve_probes_and_past_them_is_overloaded() {
    let node = Node::with(|limits| {
        limits.connections = 8;
        limits.reserved = 3;
        limits.reserved_head = Duration::from_millis(300);
        limits.body = Duration::from_secs(3600);
    });
    let mut held: Vec<Client> = (0..5).map(|_| node.client()).collect();
    wait("five connections", || node.connections() == 5);
    refused(&node, get("/echo"), 503, "overloaded");
    wait("the sixth ends", || node.connections() == 5);
    let mut probe = node.client();
    probe.send(get("/probe"));
    let reply = probe.reply();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    probe.assert_closed();
    // a silent one is soon gone, before its head or in its body, though the others may be silent for long
    node.client().assert_closed();
    refused(
        &node,
        get("/probe").replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\n"),
        408,
        "request_timeout",
    );
    wait("the reserved ones end", || node.connections() == 5);

    let reserved: Vec<Client> = (0..3).map(|_| node.client()).collect();
    wait("eight connections", || node.connections() == 8);
    for round in 0..40 {
        let mut past = node.client();
        if round % 2 == 0 {
            let _ = past.stream.write_all(get("/probe").as_bytes());
        }
        let reply = past.reply();
        assert_eq!((reply.status, reply.code().as_str()), (503, "overloaded"));
        assert_eq!(reply.header("retry-after"), Some("1"));
        past.assert_closed();
    }
    drop(reserved);
    for client in &mut held {
        client.send(get("/echo"));
        assert_eq!(client.reply().status, 200);
    }
    drop(held);
    wait("all end", || node.connections() == 0);
    assert_eq!(node.ask(&get("/echo")).status, 200);
}

#[test]
fn a_thousand_resets_leave_nothing_behind() {
    let node = Node::start();
    for round in 0..1000 {
        let mut client = node.client();
        client.send(get("/large/20000"));
        if round % 2 == 0 {
            let _ = client.stream.peek(&mut [0]); // bytes that are never read make the close a reset
        }
        client.send("GET /probe HTTP/1.1\r\nHo");
    }
    wait("connections end", || node.connections() == 0);
    node.assert_healthy();
}

#[test]
fn a_refusal_is_read_by_a_client_that_still_sends() {
    let node = Node::start();
    for _ in 0..20 {
        let mut client = node.client();
        client.send("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
        client.send(vec![b'x'; 1_000_000]);
        assert_eq!(client.reply().code(), "not_found");
    }
}

#[test]
fn a_refused_client_cannot_send_for_ever() {
    let node = Node::with(|limits| limits.linger = Duration::from_secs(3600));
    let mut client = node.client();
    client.send("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n");
    let megabyte = vec![b'x'; 1_000_000];
    wait("the socket closes under it", || (&client.stream).write_all(&megabyte).is_err());
    wait("the connection ends", || node.connections() == 0);
    // nor be silent for ever
    let node = Node::with(|limits| limits.linger = Duration::from_millis(50));
    let mut client = node.client();
    client.send("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n");
    wait("the connection ends", || node.connections() == 0);
}

#[test]
fn clients_that_read_nothing_are_cut_off() {
    let node = Node::with(|limits| limits.progress = Duration::from_millis(200));
    let mut endless = node.client();
    endless.send(get("/endless"));
    wait("the stream ends", || node.state.ended() == 1);
    let mut whole = node.client();
    whole.send(get("/large/50000000"));
    wait("the connections end", || node.connections() == 0);
}

#[test]
fn a_slow_reader_gets_all_of_a_large_answer() {
    let node = Node::with(|limits| limits.progress = Duration::from_millis(300));
    let mut client = node.client();
    client.send(get("/large/30000000"));
    let mut part = vec![0; 3_000_000];
    let mut bytes = 0;
    while bytes < 30_000_000 {
        bytes += client.stream.read(&mut part).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn header_values_never_carry_a_line_end() {
    let node = Node::start();
    let reply = node.ask(&get("/inject"));
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("x-good"), Some("fine"));
    assert!(!reply.head.to_ascii_lowercase().contains("evil"), "{}", reply.head);
    assert!(!reply.head.contains("Set-Cookie") && !reply.head.contains("X-Nul"), "{}", reply.head);
    assert_eq!(reply.json()["message"], "a\r\nb");
}

#[test]
fn web_pages_and_rebound_names_are_refused() {
    let node = Node::start();
    for path in ["/probe", "/echo", "/nowhere"] {
        let reply = node.ask(&format!("GET {path} HTTP/1.1\r\nHost: rebound.example\r\n\r\n"));
        assert_eq!((reply.status, reply.code().as_str()), (403, "forbidden_host"));
    }
    let origin = "Origin: http://evil.example\r\n";
    assert_eq!(node.ask(&post("/body", origin, "{}")).code(), "forbidden_origin");
    assert_eq!(node.ask(&post("/body", "Origin: null\r\n", "{}")).code(), "forbidden_origin");
    assert_eq!(node.ask(&post("/body", "Origin: http://localhost\r\n", "{}")).status, 201);
    assert_eq!(node.ask(&post("/body", "Origin: moz-extension://1b2c\r\n", "{}")).status, 201);
    let upgrade = format!(
        "GET /ws/echo HTTP/1.1\r\nHost: localhost\r\n{origin}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    assert_eq!(node.ask(&upgrade).code(), "forbidden_origin");
    // a plain read shows nothing to the page, since no answer has a CORS header
    let reply = node.ask(&format!("GET /echo HTTP/1.1\r\nHost: localhost\r\n{origin}\r\n"));
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None));
}

#[test]
fn the_token_is_asked_for_before_the_body_is_read() {
    let node = Node::start();
    let raw = post("/secret", "", &"x".repeat(1000));
    refused(&node, &raw[..raw.len() - 999], 401, "unauthorized");
    assert_eq!(node.ask(&post("/secret", "Authorization: Bearer secret\r\n", "{}")).status, 201);
    assert_eq!(node.state.running.load(Ordering::SeqCst), 0);
}
