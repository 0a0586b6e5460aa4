//! A WebSocket passes through as bytes, or fails like any other call.

use std::net::Shutdown;
use std::sync::mpsc;

use serde_json::json;

use super::*;

const PATH: &str = "/v1/codex/events?after=7&session_id=s&nothing=1";
/// The key and its answer are those of RFC 6455.
const ASKED: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const OPENED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: any\r\n\r\n";

/// A codexd that opens the WebSocket and hands its end over.
fn opening(more: &'static str) -> (Upstream, mpsc::Receiver<TcpStream>) {
    let (give, given) = mpsc::channel();
    let give = Mutex::new(give);
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(format!("{OPENED}{more}").as_bytes())?;
        give.lock().unwrap().send(stream.try_clone()?).map_err(io::Error::other)?;
        // The harness reads no next request as long as the other end has it.
        loop {
            thread::park();
        }
    });
    (upstream, given)
}

/// Both ends of an open tunnel, past the handshake.
fn pair(front: &Front, given: &mpsc::Receiver<TcpStream>) -> (BufReader<TcpStream>, TcpStream) {
    let mut client = front.send("GET", PATH, ASKED, "");
    let (line, headers) = head(&mut client).unwrap();
    assert_eq!(line, "HTTP/1.1 101 Switching Protocols");
    let accept = headers.iter().find(|(name, _)| name == "sec-websocket-accept").unwrap();
    assert_eq!(accept.1, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let codexd = given.recv_timeout(PATIENCE).unwrap();
    codexd.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, codexd)
}

fn received(from: &mut impl Read, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn bytes_pass_both_ways_from_the_first_on() {
    let (upstream, given) = opening("first");
    let front = Front::before(&upstream);
    let (mut client, mut codexd) = pair(&front, &given);
    assert_eq!(received(&mut client, 5), b"first");
    codexd.write_all(b"\x81\x00down").unwrap();
    assert_eq!(received(&mut client, 6), b"\x81\x00down");
    client.get_mut().write_all(b"\x8a\x80up").unwrap();
    assert_eq!(received(&mut codexd, 4), b"\x8a\x80up");

    let seen = upstream.seen().remove(0);
    assert_eq!(seen.line, "GET /v1/codexd/events?after=7&sessionId=s HTTP/1.1");
    assert_eq!(seen.header("host"), upstream.base.strip_prefix("http://"));
    assert_eq!(seen.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(seen.header("x-request-id").map(|id| &id[..4]), Some("req-"));
    drop(client);
    assert_eq!(codexd.read(&mut [0; 8]).unwrap_or(0), 0, "its end hears of it");
    until(|| (front.connections)() == 0);
}

#[test]
fn what_concerns_conductor_alone_does_not_pass() {
    let (upstream, given) = opening("");
    let front = Front::start(&format!("--codexd-local-api {} --shared-token t", upstream.base));
    let headers = format!(
        "{ASKED}Cookie: a=b\r\nAuthorization: Bearer t\r\nOrigin: http://localhost\r\nX-Request-Id: mine\r\n\
         Last-Event-ID: 9\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
    );
    let mut client = front.send("GET", PATH, &headers, "");
    let (line, answered) = head(&mut client).unwrap();
    assert!(line.contains(" 101 "), "{line}");
    assert!(!answered.iter().any(|(name, _)| name == "sec-websocket-extensions"), "{answered:?}");
    assert!(answered.contains(&("x-request-id".into(), "mine".into())), "{answered:?}");
    given.recv_timeout(PATIENCE).unwrap();
    let seen = upstream.seen().remove(0);
    for name in ["cookie", "authorization", "origin", "sec-websocket-extensions"] {
        assert_eq!(seen.header(name), None);
    }
    assert_eq!((seen.header("x-request-id"), seen.header("last-event-id")), (Some("mine"), Some("9")));

    let refused = front.ask("GET", PATH, &format!("{ASKED}Origin: https://evil.example\r\n"), "");
    assert_eq!((refused.status, &refused.envelope()["error"]), (403, &json!("forbidden_origin")));
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_handshake_that_is_wrong_is_refused() {
    let (upstream, _given) = opening("");
    let front = Front::before(&upstream);
    for (without, status, error) in
        [("Sec-WebSocket-Key", 400, "invalid_request"), ("Sec-WebSocket-Version", 426, "upgrade_required")]
    {
        let lines = ASKED.split_inclusive("\r\n").filter(|line| !line.starts_with(without));
        let response = front.ask("GET", PATH, &lines.collect::<String>(), "");
        assert_eq!((response.status, &response.envelope()["error"]), (status, &json!(error)), "{without}");
    }
}

#[test]
fn until_it_is_open_it_fails_like_any_other_call() {
    let unreachable = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let envelope = r#"{"ok": false, "error": "overloaded", "message": "64 readers.", "details": {"a": 1}}"#;
    let refused =
        |head: &str, body: &str| format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let no_json = "Independent codexd returned invalid JSON for GET /v1/codexd/events.";
    let odd = "Independent codexd returned an unexpected payload for GET /v1/codexd/events.";
    let gone = |base: &str| format!("Independent codexd is unavailable at {base}.");
    let returned =
        |status: u16| format!("Independent codexd returned HTTP {status} for GET /v1/codexd/events.");
    let cases: Vec<(String, u16, &str, Option<String>)> = vec![
        (refused("503 Full\r\nRetry-After: 5", envelope), 503, "overloaded", Some("64 readers.".into())),
        (refused("500 Oops", "<html>"), 502, "codexd_invalid_response", Some(no_json.into())),
        (refused("200 OK", "{}"), 502, "codexd_invalid_response", Some(odd.into())),
        (refused("403 No", ""), 403, "codexd_proxy_error", Some(returned(403))),
        ("HTTP/1.1 500 Oops\r\n\r\n".into(), 500, "codexd_unavailable", Some(returned(500))), // to the end
        (
            "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n".into(),
            404,
            "codexd_proxy_error",
            Some(returned(404)),
        ),
        (String::new(), 503, "codexd_unavailable", None),
        ("SSH-2.0-x\r\n".into(), 503, "codexd_unavailable", None),
        ("HTTP/1.1 101 Switch".into(), 503, "codexd_unavailable", None),
        ("HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\n{".into(), 503, "codexd_unavailable", None),
        (format!("HTTP/1.1 101 OK\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024)), 503, "codexd_unavailable", None),
    ];
    for (said, status, error, message) in cases {
        let script = said.clone();
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all(script.as_bytes())?;
            stream.shutdown(Shutdown::Both)?;
            closed()
        });
        let response = Front::before(&upstream).ask("GET", PATH, ASKED, "");
        let told = response.envelope();
        let message = message.unwrap_or_else(|| gone(&upstream.base));
        assert_eq!(
            (response.status, &told["error"], &told["message"]),
            (status, &json!(error), &json!(message)),
            "{said}"
        );
        assert_eq!(told["details"]["upstream_path"], "/v1/codexd/events", "{said}");
        if error == "overloaded" {
            assert_eq!(response.header("retry-after"), Some("5"));
            assert_eq!(told["details"]["upstream_details"], json!({ "a": 1 }));
        }
        assert_eq!(upstream.seen().len(), 1, "one call is one request");
    }
    let base = format!("http://{unreachable}");
    let response = Front::start(&format!("--codexd-local-api {base}")).ask("GET", PATH, ASKED, "");
    assert_eq!((response.status, &response.envelope()["message"]), (503, &json!(gone(&base))));
    let response = Front::start("").ask("GET", PATH, ASKED, "");
    assert_eq!((response.status, &response.envelope()["error"]), (503, &json!("codexd_not_configured")));
}

#[test]
fn a_codexd_that_does_not_answer_is_given_up() {
    let upstream = Upstream::start(|_, _| {
        thread::sleep(PATIENCE);
        closed()
    });
    let deadlines = Deadlines { response: Duration::from_millis(200), ..Deadlines::default() };
    let front = Front::with(&format!("--codexd-local-api {}", upstream.base), deadlines);
    let started = Instant::now();
    let response = front.ask("GET", PATH, ASKED, "");
    assert_eq!((response.status, &response.envelope()["error"]), (503, &json!("codexd_unavailable")));
    assert!(started.elapsed() < PATIENCE / 2);
}

#[test]
fn a_client_that_stands_still_makes_codexd_wait_and_then_gets_all() {
    /// More than the buffers of two connections hold on any system.
    const PIECES: usize = 1024;
    const PIECE: usize = 64 * 1024;
    let (upstream, given) = opening("");
    let front = Front::before(&upstream);
    let (mut client, mut codexd) = pair(&front, &given);
    let written = Arc::new(AtomicUsize::new(0));
    let counted = written.clone();
    let writing = thread::spawn(move || {
        for n in 0..PIECES {
            codexd.write_all(&[n as u8; PIECE]).unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        }
        codexd // still open
    });
    let before = AtomicUsize::new(usize::MAX);
    until(|| {
        thread::sleep(Duration::from_millis(200));
        let now = written.load(Ordering::SeqCst);
        before.swap(now, Ordering::SeqCst) == now && now > 0
    });
    let stood = written.load(Ordering::SeqCst);
    assert!(stood < PIECES / 2, "it waits: {stood} of {PIECES} are under way");
    for n in 0..PIECES {
        assert!(received(&mut client, PIECE).iter().all(|byte| *byte == n as u8), "piece {n}");
    }
    drop(writing.join().unwrap());
}

#[test]
fn all_that_codexd_said_arrives_before_its_end() {
    const SAID: usize = 3_000_000;
    let (upstream, given) = opening("");
    let front = Front::before(&upstream);
    let (mut client, mut codexd) = pair(&front, &given);
    let mut talks = client.get_ref().try_clone().unwrap();
    let talking = thread::spawn(move || while talks.write_all(&[b'x'; 1024]).is_ok() {}); // and nobody reads it there
    codexd.write_all(&vec![7; SAID]).unwrap();
    codexd.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(200)); // a reset would have come by now
    received(&mut client, SAID);
    let started = Instant::now();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert!(started.elapsed() < Duration::from_millis(700), "it is told at once: {:?}", started.elapsed());
    drop(client);
    talking.join().unwrap();
    until(|| (front.connections)() == 0);
}

#[test]
fn a_tunnel_ends_when_conductor_stops_and_none_begins() {
    let (upstream, given) = opening("");
    let front = Front::before(&upstream);
    let (mut client, mut codexd) = pair(&front, &given);
    front.node.codexd.end_streams();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(codexd.read(&mut [0; 8]).unwrap_or(0), 0);
    until(|| (front.connections)() == 0); // also of a client that does not close
    let response = front.ask("GET", PATH, ASKED, "");
    assert_eq!((response.status, &response.envelope()["error"]), (503, &json!("codexd_unavailable")));
}

#[test]
fn a_silent_codexd_is_a_dead_one() {
    let (upstream, given) = opening("");
    let deadlines = Deadlines { silence: Duration::from_millis(200), ..Deadlines::default() };
    let front = Front::with(&format!("--codexd-local-api {}", upstream.base), deadlines);
    let (mut client, codexd) = pair(&front, &given);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    drop(codexd);
}
