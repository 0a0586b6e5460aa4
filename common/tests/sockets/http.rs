//! What honest clients see.

use std::collections::HashSet;
use std::thread;
use std::time::Instant;

use crate::harness::{Client, Node, get, post, wait};

#[test]
fn envelopes_are_indented_json_with_the_request_id() {
    let node = Node::start();
    let reply = node.ask("GET /items/7 HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: my.own_id-1\r\n\r\n");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(reply.header("x-request-id"), Some("my.own_id-1"));
    let expected = r#"{
  "ok": true,
  "data": {
    "head": false,
    "id": "7",
    "path": "/items/7",
    "query": []
  },
  "requestId": "my.own_id-1"
}
"#;
    assert_eq!(reply.body, expected);

    let reply = node.ask("GET /nowhere HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: 2\r\n\r\n");
    assert_eq!(reply.status, 404);
    let expected = r#"{
  "ok": false,
  "error": "not_found",
  "message": "Unknown route GET /nowhere.",
  "requestId": "2"
}
"#;
    assert_eq!(reply.body, expected);
}

#[test]
fn every_answer_has_a_request_id_and_malformed_ones_are_replaced() {
    let node = Node::start();
    let mut seen = HashSet::new();
    let paths = ["/probe", "/echo", "/stream/1", "/nowhere", "/panic", "/ws/echo", "/inject"];
    let wrong = ["", "a b", "a\u{e9}", "\"", &"x".repeat(65)];
    for (path, wrong) in paths.iter().zip(wrong.iter().cycle()) {
        let reply =
            node.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {wrong}\r\n\r\n"));
        let id = reply.header("x-request-id").unwrap().to_string();
        assert!(id.starts_with("req-") && seen.insert(id.clone()), "{path}: {id}");
        if reply.body.starts_with('{') {
            assert_eq!(reply.json()["requestId"], id);
        }
    }
    // what cannot even be parsed gets one too
    assert!(node.ask("GET\r\n\r\n").header("x-request-id").is_some());
    let longest = "x".repeat(64);
    let reply =
        node.ask(&format!("GET /probe HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {longest}\r\n\r\n"));
    assert_eq!(reply.header("x-request-id"), Some(longest.as_str()));
}

#[test]
fn bursts_of_kept_connections_are_all_answered() {
    let node = Node::start();
    for count in [8, 32, 500] {
        let mut clients: Vec<Client> = (0..count).map(|_| node.client()).collect();
        let mut answers = 0;
        for round in 0..3 {
            for (index, client) in clients.iter_mut().enumerate() {
                client.send(get(&format!("/items/{round}-{index}")));
            }
            for (index, client) in clients.iter_mut().enumerate() {
                assert_eq!(client.reply().json()["data"]["id"], format!("{round}-{index}"));
                answers += 1;
            }
        }
        assert_eq!(answers, 3 * count);
    }
}

#[test]
fn many_clients_at_once_are_all_answered() {
    let node = Node::start();
    for count in [32, 200, 500] {
        let answers: usize = thread::scope(|scope| {
            let node = &node;
            let work = move |index: usize| {
                let mut client = node.client();
                for round in 0..10 {
                    client.send(get(&format!("/items/{index}-{round}")));
                    assert_eq!(client.reply().json()["data"]["id"], format!("{index}-{round}"));
                }
                10
            };
            let spawn = |index| {
                let builder = thread::Builder::new().stack_size(256 * 1024);
                builder.spawn_scoped(scope, move || work(index)).unwrap()
            };
            let clients: Vec<_> = (0..count).map(spawn).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        assert_eq!(answers, 10 * count);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let node = Node::start();
    let mut client = node.client();
    let mut all = String::new();
    for index in 0..50 {
        all += &get(&format!("/items/{index}"));
        all += &post("/body", "", &format!("body {index}"));
        all += "POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        all += "3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n";
    }
    client.send(all);
    for index in 0..50 {
        assert_eq!(client.reply().json()["data"]["id"], index.to_string());
        assert_eq!(client.reply().json()["data"]["text"], format!("body {index}"));
        assert_eq!(client.reply().json()["data"]["text"], "abcde");
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let node = Node::start();
    let mut client = node.client();
    for byte in post("/body", "", "slow").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.reply().json()["data"]["text"], "slow");
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let node = Node::start();
    let mut client = node.client();
    client.send(get("/probe"));
    let got = client.reply();
    client.send(get("/probe").replace("GET", "HEAD"));
    let head = client.reply_to_head();
    assert_eq!((head.status, head.header("content-length")), (200, got.header("content-length")));
    for path in ["/stream/3", "/nowhere", "/endless"] {
        client.send(get(path).replace("GET", "HEAD"));
        assert_eq!(client.reply_to_head().status, if path == "/nowhere" { 404 } else { 200 });
    }
    // the connection is still in step
    client.send(get("/items/next"));
    assert_eq!(client.reply().json()["data"]["id"], "next");
    assert_eq!(node.state.ended(), 0, "the stream's body was not run");
}

#[test]
fn expect_continue_asks_only_for_bodies_that_will_be_read() {
    let node = Node::start();
    let mut client = node.client();
    let head = "POST /body HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    client.send(head);
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("late");
    assert_eq!(client.reply().json()["data"]["text"], "late");
    // whoever sends the body at once is not asked for it
    client.send(format!("{head}soon"));
    assert_eq!(client.reply().json()["data"]["text"], "soon");
    for (changed, status) in [
        (head.replace("/body", "/nowhere"), 404),
        (head.replace("Length: 4", "Length: 99999999"), 413),
        (head.replace("/body", "/secret"), 401),
        (head.replace("Content-Length", "Content-Type: text/plain\r\nContent-Length"), 415),
        (head.replace("100-continue", "200-maybe"), 400),
    ] {
        let mut client = node.client();
        client.send(changed);
        assert_eq!(client.reply().status, status);
        client.assert_closed();
    }
}

#[test]
fn connections_live_as_long_as_both_sides_say() {
    let node = Node::start();
    let kept = |raw: &str| {
        let mut client = node.client();
        client.send(raw);
        let reply = client.reply();
        assert_eq!(reply.status, 200, "{raw}");
        let connection = reply.header("connection").map(str::to_string);
        if connection.as_deref() == Some("close") {
            client.assert_closed();
        } else {
            client.send(get("/probe"));
            assert_eq!(client.reply().status, 200);
        }
        connection
    };
    assert_eq!(kept(&get("/probe")), None);
    assert_eq!(
        kept("GET /probe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_deref(),
        Some("close")
    );
    assert_eq!(
        kept("GET /probe HTTP/1.1\r\nHost: localhost\r\nConnection: x, Close\r\n\r\n").as_deref(),
        Some("close")
    );
    assert_eq!(kept("GET /probe HTTP/1.0\r\n\r\n").as_deref(), Some("close"));
    assert_eq!(kept("GET /probe HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").as_deref(), Some("keep-alive"));
    // an error whose request had no body costs nobody the connection
    let mut client = node.client();
    for _ in 0..3 {
        client.send(get("/nowhere"));
        assert_eq!(client.reply().status, 404);
    }
}

#[test]
fn streams_are_chunks_and_leave_the_connection_in_step() {
    let node = Node::start();
    let mut client = node.client();
    client.send(get("/stream/3") + &get("/probe"));
    let head = client.reply_to_head();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!((head.header("transfer-encoding"), head.header("content-length")), (Some("chunked"), None));
    assert_eq!(client.chunks(), ["data: 0\n\n", "data: 1\n\n", "data: 2\n\n"]);
    assert_eq!(client.reply().body, "ok\n");

    let mut old = node.client();
    old.send("GET /stream/2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let reply = old.reply();
    assert_eq!(reply.body, "data: 0\n\ndata: 1\n\n");
    assert_eq!((reply.header("transfer-encoding"), reply.header("connection")), (None, Some("close")));

    let mut client = node.client();
    client.send(get("/broken"));
    client.reply_to_head();
    assert_eq!(client.line().as_deref(), Some("9"));
    assert_eq!(client.line().as_deref(), Some("data: 1\n\n"));
    assert_eq!(client.line(), None, "a broken stream must not end like a whole one");
}

#[test]
fn answers_do_not_wait_for_a_delayed_ack() {
    let node = Node::start();
    for (path, length) in [("/large/20000", 20_000), ("/stream/3", 27)] {
        let mut client = node.client();
        let mut times: Vec<_> = (0..50)
            .map(|_| {
                let start = Instant::now();
                client.send(get(path));
                assert_eq!(client.reply().body.len(), length);
                start.elapsed()
            })
            .collect();
        times.sort();
        assert!(
            times[25].as_millis() < 20,
            "{path}: a delayed ACK costs 40 ms; the median is {:?}",
            times[25]
        );
    }
}

#[test]
fn whole_answers_say_their_length_whatever_the_client_prefers() {
    let node = Node::start();
    let reply = node.ask("GET /large/100000 HTTP/1.1\r\nHost: localhost\r\nTE: chunked\r\n\r\n");
    assert_eq!((reply.header("content-length"), reply.header("transfer-encoding")), (Some("100000"), None));
    assert_eq!(reply.body.len(), 100_000);
}

#[test]
fn the_table_says_404_405_and_allow() {
    let node = Node::start();
    let reply = node.ask(&post("/probe", "", ""));
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    let reply = node.ask(&get("/body").replace("GET", "DELETE"));
    assert_eq!(
        (reply.status, reply.header("allow"), reply.code().as_str()),
        (405, Some("POST"), "method_not_allowed")
    );
    for path in ["/", "/probe/", "//probe", "/items", "/items/", "/items/a/b", "/Probe"] {
        assert_eq!(node.ask(&get(path)).status, 404, "{path}");
    }
    let reply = node.ask(&get("/nowhere").replace("GET", "BREW"));
    assert_eq!(reply.json()["message"], "Unknown route BREW /nowhere.");
}

#[test]
fn paths_and_queries_are_decoded() {
    let node = Node::start();
    let data =
        node.ask(&get("/items/a%20b%2Fc%C3%A9+?x=1&x=a+b%2B&&empty&%C3%BC=%3D=")).json()["data"].clone();
    assert_eq!(data["id"], "a b/c\u{e9}+");
    assert_eq!(
        data["query"],
        serde_json::json!([["x", "1"], ["x", "a b+"], ["empty", ""], ["\u{fc}", "=="]])
    );
    for (path, named) in
        [("/items/%zz", "`id`"), ("/items/%C3", "`id`"), ("/items/%4", "`id`"), ("/echo?a=%", "%")]
    {
        let reply = node.ask(&get(path));
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{path}");
        assert!(reply.json()["message"].as_str().unwrap().contains(named), "{}", reply.body);
    }
    let reply = node.ask(&get("/echo?limit=11"));
    assert_eq!(reply.json()["message"], "Query value `limit` must be an integer from 1 to 10.");
}

#[test]
fn bodies_are_json_or_unnamed() {
    let node = Node::start();
    for (header, status) in [
        ("", 201),
        ("Content-Type: application/json\r\n", 201),
        ("Content-Type: Application/JSON; charset=utf-8\r\n", 201),
        ("Content-Type: application/merge-patch+json\r\n", 201),
        ("Content-Type: text/plain\r\n", 415),
        ("Content-Type: application/x-www-form-urlencoded\r\n", 415),
        ("Content-Type: application/jsonp\r\n", 415),
    ] {
        assert_eq!(node.ask(&post("/body", header, "{}")).status, status, "{header}");
    }
    assert_eq!(node.ask(&post("/body", "Content-Type: text/plain\r\n", "")).status, 201, "no body, no type");
}

#[test]
fn a_panic_is_a_500_and_costs_nobody_else() {
    let node = Node::start();
    let mut client = node.client();
    for _ in 0..3 {
        client.send(get("/panic"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.code().as_str()), (500, "internal_error"));
        assert!(!reply.body.contains("as told"));
    }
    node.assert_healthy();
}

#[test]
fn a_handler_learns_that_its_client_has_gone() {
    let node = Node::start();
    let mut client = node.client();
    client.send(get("/hold"));
    wait("the handler runs", || node.state.running.load(std::sync::atomic::Ordering::SeqCst) == 1);
    assert_eq!(node.state.ended(), 0);
    drop(client);
    wait("the handler ends", || node.state.ended() == 1);
    wait("the connection ends", || node.connections() == 0);
}

#[test]
fn ipv6_loopback_is_served_under_its_name() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // a machine without IPv6
    }
    let node = Node::on("[::1]:0", |_| {});
    let host = node.address;
    assert_eq!(node.ask(&format!("GET /probe HTTP/1.1\r\nHost: {host}\r\n\r\n")).status, 200);
    assert_eq!(node.ask("GET /probe HTTP/1.1\r\nHost: [::2]\r\n\r\n").status, 403);
}
