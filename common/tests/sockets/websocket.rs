//! WebSocket over real sockets: tungstenite's client where it is honest, bytes where it is not.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use common::Error;
use common::http::{Answer, Request};
use common::websocket::{Flow, Frames, upgrade};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::harness::{Client, LONG, Node, State, get, wait};

/// Sends back what it gets; `panic` makes it panic, `bye` close.
pub fn echo(state: &State, request: &Request) -> Result<Answer, Error> {
    let ended = state.ended.clone();
    upgrade(request, move |peer| {
        let queue = Mutex::new(Vec::new());
        let on_text = |text: &str| {
            assert_ne!(text, "panic");
            queue.lock().unwrap().push(text.to_string());
        };
        let source = |frames: &mut Frames, until: Instant| {
            let waiting = std::mem::take(&mut *queue.lock().unwrap());
            waiting.iter().for_each(|text| frames.text(text));
            if waiting.is_empty() {
                thread::park_timeout(until.saturating_duration_since(Instant::now()));
            }
            if waiting.iter().any(|text| text == "bye") { Flow::Close(1001, "bye".into()) } else { Flow::Go }
        };
        let _ended = Ended(&ended);
        peer.run("echo", on_text, source);
    })
}

struct Ended<'a>(&'a std::sync::atomic::AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Sends `count` numbered messages of 200 bytes as fast as they are taken, then waits.
pub fn send(state: &State, request: &Request) -> Result<Answer, Error> {
    let count: usize = request.param("count").parse().unwrap();
    let (ended, produced) = (state.ended.clone(), state.produced.clone());
    upgrade(request, move |peer| {
        let source = |frames: &mut Frames, until: Instant| {
            while frames.room() > 0 && produced.load(Ordering::SeqCst) < count {
                frames.text(&format!("{:0200}", produced.fetch_add(1, Ordering::SeqCst)));
            }
            if frames.is_empty() {
                thread::park_timeout(until.saturating_duration_since(Instant::now()));
            }
            Flow::Go
        };
        let _ended = Ended(&ended);
        peer.run("send", |_| {}, source);
    })
}

/// Closes at once, with a reason longer than a close may carry.
pub fn close(state: &State, request: &Request) -> Result<Answer, Error> {
    let ended = state.ended.clone();
    upgrade(request, move |peer| {
        let _ended = Ended(&ended);
        peer.run("close", |_| {}, |_, _| Flow::Close(1012, "\u{fc}".repeat(100)));
    })
}

type Socket = WebSocket<TcpStream>;

fn open(node: &Node, path: &str) -> Socket {
    let stream = Client::connect(node.address).stream;
    tungstenite::client(format!("ws://{}{path}", node.address), stream).unwrap().0
}

fn head(path: &str) -> String {
    get(path).trim_end().to_string()
        + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

/// A connection after its handshake, for bytes that tungstenite would not send.
fn raw(node: &Node, path: &str) -> Client {
    let mut client = node.client();
    client.send(head(path));
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client
}

/// A client's frame; the mask is zero, so the payload is as it reads.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// The code of the close that comes next, and that the connection ends after it.
fn close_code(client: Client) -> u16 {
    let mut bytes = client.buffer;
    let mut stream = client.stream;
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes[0], 0x88, "{bytes:?}");
    assert_eq!(bytes.len(), 2 + usize::from(bytes[1]), "nothing after the close");
    u16::from_be_bytes([bytes[2], bytes[3]])
}

#[test]
fn the_handshake_is_that_of_the_rfc() {
    let node = Node::start();
    let mut client = node.client();
    client.send(head("/ws/echo"));
    let head = client.head();
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert!(head.contains("x-request-id: req-"), "{head}");
}

#[test]
fn what_is_no_handshake_is_told_so() {
    let node = Node::start();
    let good = head("/ws/echo");
    for raw in [
        get("/ws/echo"),
        good.replace("Version: 13", "Version: 8"),
        good.replace("Sec-WebSocket-Version: 13\r\n", ""),
    ] {
        let reply = node.ask(&raw);
        assert_eq!((reply.status, reply.code().as_str()), (426, "upgrade_required"), "{raw}");
        assert_eq!(reply.header("upgrade"), Some("websocket"));
        assert_eq!(reply.header("sec-websocket-version"), Some("13"));
    }
    for (from, to) in [
        ("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        ("Connection: Upgrade", "Connection: keep-alive"),
        ("HTTP/1.1", "HTTP/1.0"),
    ] {
        let reply = node.ask(&good.replace(from, to));
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"), "{from}");
    }
}

#[test]
fn messages_come_back_in_order() {
    let node = Node::start();
    let mut socket = open(&node, "/ws/echo");
    for round in 0..20 {
        for i in 0..100 {
            socket.write(Message::text(format!("{round} {i} {}", "\u{fc}".repeat(i * 10)))).unwrap();
        }
        socket.flush().unwrap();
        for i in 0..100 {
            assert!(socket.read().unwrap().into_text().unwrap().starts_with(&format!("{round} {i} ")));
        }
    }
}

#[test]
fn a_frame_in_the_segment_of_the_handshake_is_delivered() {
    let node = Node::start();
    let mut client = node.client();
    client.send([head("/ws/echo").as_bytes(), &frame(0x81, b"early")].concat());
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    let mut answer = [0; 7];
    client.buffer.drain(..).zip(&mut answer).for_each(|(byte, slot)| *slot = byte);
    if answer[0] == 0 {
        client.stream.read_exact(&mut answer).unwrap();
    }
    assert_eq!(&answer, b"\x81\x05early");
}

#[test]
fn pings_and_messages_wake_a_writer_that_sleeps() {
    let node = Node::with(|limits| {
        limits.ping = Duration::from_secs(3600);
        limits.progress = Duration::from_secs(3600);
    });
    let mut socket = open(&node, "/ws/echo");
    for i in 0..10 {
        socket.send(Message::Ping(format!("{i}").into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(format!("{i}").into()));
        socket.send(Message::text("hello")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("hello"));
    }
}

#[test]
fn pings_are_answered_also_in_the_middle_of_a_flood() {
    let node = Node::start();
    let mut socket = open(&node, "/ws/send/200000");
    socket.send(Message::Ping("one".into())).unwrap();
    let (mut numbers, mut pong) = (0, None);
    while numbers < 200_000 {
        match socket.read().unwrap() {
            Message::Text(text) => {
                assert_eq!(text.parse::<usize>().unwrap(), numbers);
                numbers += 1;
            }
            Message::Pong(payload) => pong = Some((numbers, payload)),
            other => panic!("{other:?}"),
        }
    }
    let (at, payload) = pong.expect("no pong before the end of the flood");
    assert_eq!(&payload[..], b"one");
    assert!(at < 200_000);
}

#[test]
fn frames_that_break_the_protocol_are_closed_by_code() {
    let node = Node::start();
    let large = vec![b'x'; 1024 * 1024];
    let mut tebibyte = vec![0x81, 0x80 | 127];
    tebibyte.extend((1u64 << 40).to_be_bytes());
    tebibyte.extend([0; 4]);
    let cases: &[(&str, Vec<u8>, u16)] = &[
        ("unmasked", b"\x81\x02hi".to_vec(), 1002),
        ("reserved bit", frame(0xc1, b"hi"), 1002),
        ("unknown opcode", frame(0x83, b"hi"), 1002),
        ("continuation of nothing", frame(0x80, b"hi"), 1002),
        ("long ping", frame(0x89, &[0; 126]), 1002),
        ("1 TiB", tebibyte, 1009),
        ("1 MiB and a byte", frame(0x81, &[&large[..], b"x"].concat()), 1009),
        ("1 MiB in fragments", [frame(0x01, &large), frame(0x80, b"x")].concat(), 1009),
        ("not UTF-8", frame(0x81, b"\xff"), 1007),
        ("binary", frame(0x82, b"hi"), 1003),
    ];
    for (what, bytes, code) in cases {
        let mut client = raw(&node, "/ws/echo");
        client.send(bytes);
        assert_eq!(close_code(client), *code, "{what}");
    }
    let mut largest = raw(&node, "/ws/echo");
    largest.send(frame(0x81, &large));
    let mut echoed = vec![0; large.len() + 10];
    largest.stream.read_exact(&mut echoed).unwrap();
    assert!(echoed.ends_with(&large));
    drop(largest);
    wait("all end", || node.connections() == 0);
    assert_eq!(node.state.ended(), cases.len() + 1);
}

#[test]
fn a_reader_that_stalls_and_goes_on_gets_everything() {
    let node = Node::start();
    let mut socket = open(&node, "/ws/send/100000");
    assert!(socket.read().is_ok());
    // it stalls: the writer gets stuck in the full buffers of the socket
    let produced = || node.state.produced.load(Ordering::SeqCst);
    let mut last = usize::MAX;
    while std::mem::replace(&mut last, produced()) != produced() {
        thread::sleep(Duration::from_millis(100));
    }
    assert!(produced() < 100_000, "the buffers took all; the test needs more messages");
    node.assert_healthy();
    for number in 1..100_000 {
        assert_eq!(socket.read().unwrap().into_text().unwrap().parse::<usize>().unwrap(), number);
    }
}

#[test]
fn either_side_may_close() {
    let node = Node::start();
    let mut socket = open(&node, "/ws/echo");
    let reason = tungstenite::protocol::CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    socket.close(Some(reason.clone())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Close(Some(reason)));
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    wait("the first ends", || node.state.ended() == 1);

    let mut socket = open(&node, "/ws/echo");
    socket.send(Message::text("bye")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("bye"), "what was in the frames goes out first");
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "bye"));
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    wait("the second ends", || node.state.ended() == 2);

    let mut socket = open(&node, "/ws/close");
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
    assert_eq!((u16::from(frame.code), frame.reason.chars().count()), (1012, 61));
    wait("no connection is left", || node.state.ended() == 2 && node.connections() == 1);
    assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
    wait("the third ends", || node.connections() == 0);
}

#[test]
fn a_close_waits_for_the_peers_own_while_that_still_sends() {
    let node = Node::start();
    for late in [0, 50_000] {
        let mut client = raw(&node, "/ws/close");
        client.send(frame(0x81, b"late").repeat(late));
        let mut close = std::mem::take(&mut client.buffer);
        let early = close.len();
        close.resize(126, 0);
        client.stream.read_exact(&mut close[early..]).unwrap();
        assert_eq!(close[..4], [0x88, 124, 3, 0xf4]);
        client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let error = client.stream.read(&mut close).expect_err("closed without waiting");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        client.send(frame(0x88, b"\x03\xe8"));
        client.stream.set_read_timeout(Some(LONG)).unwrap();
        client.assert_closed();
    }
}

#[test]
fn a_peer_that_never_answers_a_close_is_cut() {
    let node = Node::with(|limits| limits.close = Duration::from_millis(50));
    let client = raw(&node, "/ws/close");
    wait("the connection ends", || node.connections() == 0);
    assert_eq!(close_code(client), 1012);
}

#[test]
fn peers_that_vanish_are_noticed() {
    let node = Node::with(|limits| {
        limits.ping = Duration::from_millis(50);
        limits.progress = Duration::from_millis(800);
    });
    // one is gone: its socket is closed
    drop(open(&node, "/ws/echo"));
    wait("the one that closed ends", || node.state.ended() == 1);
    // one is frozen: it reads nothing and answers no ping, while pings fit its buffers for ever
    let frozen = raw(&node, "/ws/echo");
    wait("the frozen one ends", || node.state.ended() == 2);
    // one is frozen under a flood
    let flooded = raw(&node, "/ws/send/1000000");
    wait("the flooded one ends", || node.state.ended() == 3);
    drop((frozen, flooded));
    // one is quiet, but answers pings
    let mut quiet = open(&node, "/ws/echo");
    let start = Instant::now();
    quiet.get_mut().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while start.elapsed() < Duration::from_millis(2500) {
        let _ = quiet.read();
    }
    assert_eq!(node.state.ended(), 3, "a peer that answers pings lives");
}

#[test]
fn a_slow_reader_lives_though_it_cannot_answer_pings() {
    let node = Node::with(|limits| {
        limits.ping = Duration::from_millis(50);
        limits.progress = Duration::from_millis(800);
    });
    let mut client = raw(&node, "/ws/send/1000000");
    let mut part = vec![0; 100_000];
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(2500) {
        bytes += client.stream.read(&mut part).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.state.ended(), 0, "it took {bytes} bytes and was cut off");
}

#[test]
fn stop_cuts_what_does_not_close() {
    let mut node = Node::start();
    let mut socket = open(&node, "/ws/echo");
    socket.send(Message::text("hello")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("hello"));
    node.running.take().unwrap().stop(Duration::from_millis(50));
    assert_eq!(node.state.ended(), 1);
    assert!(socket.read().is_err());
}

#[test]
fn a_panic_ends_its_peer_and_nobody_else() {
    let node = Node::start();
    let mut other = open(&node, "/ws/echo");
    let mut socket = open(&node, "/ws/echo");
    socket.send(Message::text("panic")).unwrap();
    assert!(socket.read().is_err());
    wait("the peer ends", || node.state.ended() == 1);
    other.send(Message::text("still here")).unwrap();
    assert_eq!(other.read().unwrap(), Message::text("still here"));
}

#[test]
fn a_flood_of_pings_is_bounded() {
    let node = Node::start();
    let mut client = raw(&node, "/ws/send/1000000");
    // the writer is stuck behind data nobody reads, while pings come in
    let produced = || node.state.produced.load(Ordering::SeqCst);
    let mut last = usize::MAX;
    while std::mem::replace(&mut last, produced()) != produced() {
        thread::sleep(Duration::from_millis(100));
    }
    let pings = frame(0x89, &[b'p'; 125]).repeat(1000);
    for _ in 0..100 {
        client.send(&pings);
    }
    client.send(frame(0x88, b"\x03\xe8"));
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).unwrap();
    let pongs = rest.windows(3).filter(|it| it == b"\x8a\x7dp").count();
    assert!(pongs < 10_000, "{pongs} of 100000 pongs were kept for a peer that reads nothing");
}
