//! Server-sent events pass through as they come.

use std::sync::mpsc;

use super::*;

const SSE: &str = "Accept: text/event-stream\r\n";
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";

fn event(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}

#[test]
fn each_event_passes_before_the_next_one_comes() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let upstream = Upstream::start(move |_, stream| {
        write!(stream, "{HEAD}")?;
        for text in ["id: 1\ndata: {\"seq\":1}\n\n", ": quiet\n\n", "data: h\u{e9}\n\n"] {
            gone.lock().unwrap().recv().map_err(io::Error::other)?;
            event(stream, text)?;
        }
        stream.write_all(b"0\r\n\r\n")
    });
    let front = Front::before(&upstream);
    let path = "/v1/codex/events?after=0&session_id=s-1&unknown=1";
    let mut client = front.send("GET", path, &format!("{SSE}Last-Event-ID: 41\r\n"), "");
    go.send(()).unwrap();
    let (line, headers) = head(&mut client).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK");
    for header in [("content-type", "text/event-stream"), ("cache-control", "no-store")] {
        assert!(headers.iter().any(|(name, value)| (name.as_str(), value.as_str()) == header), "{headers:?}");
    }
    assert_eq!(chunk(&mut client).unwrap(), b"id: 1\ndata: {\"seq\":1}\n\n");
    go.send(()).unwrap();
    assert_eq!(chunk(&mut client).unwrap(), b": quiet\n\n");
    go.send(()).unwrap();
    assert_eq!(chunk(&mut client).unwrap(), "data: h\u{e9}\n\n".as_bytes());
    assert_eq!(chunk(&mut client), None);
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.line, "GET /v1/codexd/events?after=0&sessionId=s-1 HTTP/1.1");
    assert_eq!(
        (seen.header("accept"), seen.header("last-event-id")),
        (Some("text/event-stream"), Some("41"))
    );
}

#[test]
fn a_turn_streams_too() {
    let upstream = Upstream::start(|_, stream| {
        write!(stream, "{HEAD}")?;
        event(stream, "data: 1\n\n")?;
        event(stream, "data: 2\n\n")?;
        stream.write_all(b"0\r\n\r\n")
    });
    let response =
        Front::before(&upstream).ask("POST", "/v1/codex/turn", SSE, r#"{"session_id": "s", "prompt": "p"}"#);
    assert_eq!((response.status, response.body.as_str()), (200, "data: 1\n\ndata: 2\n\n"));
    assert_eq!(upstream.seen()[0].body, r#"{"input":"p","sessionId":"s"}"#);
}

#[test]
fn a_stream_that_breaks_off_has_no_end() {
    let upstream = Upstream::start(|_, stream| {
        write!(stream, "{HEAD}")?;
        event(stream, "data: 1\n\n")?;
        closed()
    });
    let front = Front::before(&upstream);
    let mut client = front.send("GET", "/v1/codex/events", SSE, "");
    head(&mut client).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "9\r\ndata: 1\n\n\r\n");
}

#[test]
fn a_silent_stream_is_ended() {
    let (give_up, given_up) = mpsc::channel::<()>();
    let given_up = Mutex::new(given_up);
    let upstream = Upstream::start(move |_, stream| {
        write!(stream, "{HEAD}")?;
        event(stream, "data: 1\n\n")?;
        let _ = given_up.lock().unwrap().recv();
        closed()
    });
    let deadlines = Deadlines { silence: Duration::from_millis(200), ..Deadlines::default() };
    let front = Front::with(&format!("--codexd-local-api {}", upstream.base), deadlines);
    let mut client = front.send("GET", "/v1/codex/events", SSE, "");
    head(&mut client).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "9\r\ndata: 1\n\n\r\n");
    drop(give_up);
}

#[test]
fn a_stream_outlives_every_other_deadline() {
    let upstream = Upstream::start(|_, stream| {
        write!(stream, "{HEAD}")?;
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(250));
            event(stream, "data: 1\n\n")?;
        }
        stream.write_all(b"0\r\n\r\n")
    });
    let moment = Duration::from_secs(1);
    let deadlines = Deadlines { response: moment, body: moment, ..Deadlines::default() };
    let front = Front::with(&format!("--codexd-local-api {}", upstream.base), deadlines);
    let response = front.ask("GET", "/v1/codex/events", SSE, "");
    assert_eq!(response.body, "data: 1\n\n".repeat(6));
}

#[test]
fn codexd_hears_when_the_client_leaves() {
    let (left, heard) = mpsc::channel();
    let upstream = Upstream::start(move |_, stream| {
        write!(stream, "{HEAD}")?;
        while event(stream, ": quiet\n\n").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = left.send(());
        closed()
    });
    let front = Front::before(&upstream);
    let mut client = front.send("GET", "/v1/codex/events", SSE, "");
    head(&mut client).unwrap();
    assert!(chunk(&mut client).is_some());
    drop(client);
    heard.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_refusal_of_a_stream_is_a_failure_like_any_other() {
    let body = r#"{"ok": false, "error": "overloaded", "message": "64 readers."}"#;
    let upstream =
        Upstream::start(move |_, stream| answer(stream, 503, "Content-Type: text/event-stream\r\n", body));
    let response = Front::before(&upstream).ask("GET", "/v1/codex/events", SSE, "");
    assert_eq!((response.status, response.envelope()["error"].as_str()), (503, Some("overloaded")));
    let upstream = Upstream::always(202, r#"{"ok": true, "data": {"accepted": true}}"#);
    let response = Front::before(&upstream).ask("POST", "/v1/codex/turn", SSE, "{}");
    assert_eq!((response.status, &response.envelope()["data"]["accepted"]), (202, &Value::Bool(true)));
}
