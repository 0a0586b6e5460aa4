//! Who leaves before the end: a client, or conductor itself.

use std::sync::mpsc;

use super::*;

const SSE: &str = "Accept: text/event-stream\r\n";
const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n: hi\n\r\n";

/// A codexd that answers with `head` and then only listens; it says when its connection has ended.
fn listening(head: &'static str) -> (Upstream, mpsc::Receiver<()>) {
    let (ended, heard) = mpsc::channel();
    let ended = Mutex::new(ended);
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(head.as_bytes())?;
        while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
        ended.lock().unwrap().send(()).map_err(io::Error::other)?;
        closed()
    });
    (upstream, heard)
}

#[test]
fn codexd_hears_that_a_client_has_left_though_it_says_nothing() {
    for (path, headers, head) in [
        ("/v1/codex/events", SSE, HEAD),
        ("/v1/codex/events", SSE, ""), // before it has answered
        ("/v1/codex/events?waitMs=600000", "", ""),
        ("/v1/codex/turns/t?waitMs=600000", "", ""),
    ] {
        let (upstream, heard) = listening(head);
        let front = Front::before(&upstream);
        let client = front.send("GET", path, headers, "");
        until(|| upstream.seen().len() == 1);
        assert!(heard.recv_timeout(Duration::from_millis(100)).is_err(), "while it is there: {path}");
        drop(client);
        heard.recv_timeout(PATIENCE).unwrap();
        until(|| (front.connections)() == 0);
    }
}

#[test]
fn streams_end_when_conductor_stops_and_none_begins() {
    let (upstream, heard) = listening(HEAD);
    let front = Front::before(&upstream);
    let mut client = front.send("GET", "/v1/codex/events", SSE, "");
    head(&mut client).unwrap();
    assert_eq!(chunk(&mut client).unwrap(), b": hi\n");
    front.node.codexd.end_streams();
    heard.recv_timeout(PATIENCE).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "without the end of the body");
    let response = front.ask("GET", "/v1/codex/events", SSE, "");
    assert_eq!((response.status, &response.envelope()["error"]), (503, &"codexd_unavailable".into()));
    assert_eq!(upstream.seen().len(), 1);
}
