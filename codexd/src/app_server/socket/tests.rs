use std::net::TcpListener;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use serde_json::json;
use tungstenite::accept;

use super::*;

const SOON: Duration = Duration::from_secs(20);
const QUICK: Patience = Patience {
    connect: Duration::from_millis(300),
    write: Duration::from_millis(300),
    ping: Duration::from_millis(50),
    silence: Duration::from_millis(500),
    close: Duration::from_millis(200),
};

/// A connection to a server that does this with it.
struct Peer<T> {
    socket: Socket,
    inputs: Receiver<Input>,
    url: String,
    server: JoinHandle<T>,
}

fn peer<T: Send + 'static>(
    patience: Patience,
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> Peer<T> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0));
    let (inbox, inputs) = bounded(1);
    let url = format!("ws://{address}");
    let socket = Socket::start_with(patience, &Endpoint { url: url.clone(), address }, 7, &inbox);
    Peer { socket, inputs, url, server }
}

impl<T> Peer<T> {
    /// What the loop gets next, in a word.
    fn next(&self) -> String {
        match self.inputs.recv_timeout(SOON).unwrap() {
            Input::Child { epoch: 7, event: FromChild::Connected { endpoint } } => {
                assert_eq!(endpoint, self.url);
                "connected".into()
            }
            Input::Child { epoch: 7, event: FromChild::Notice(notice) } => notice.method,
            Input::Child { epoch: 7, event: FromChild::LineDropped { bytes } } => format!("dropped {bytes}"),
            Input::Child { epoch: 7, event: FromChild::Exited { reason } } => {
                assert!(self.inputs.recv_timeout(SOON).is_err(), "nothing follows");
                format!("ended: {}", reason.replace(&self.url, "URL"))
            }
            other => panic!("{other:?}"),
        }
    }

    /// All that the loop gets, to the end.
    fn all(&self) -> Vec<String> {
        let mut all = vec![self.next()];
        while !all.last().unwrap().starts_with("ended: ") {
            all.push(self.next());
        }
        all
    }
}

fn raw(bytes: Vec<u8>) -> impl FnOnce(TcpStream) + Send + 'static {
    move |stream| {
        let mut socket = accept(stream).unwrap();
        let _ = socket.get_mut().write_all(&bytes);
        drop(socket);
    }
}

/// The header of a text frame that says to have so many bytes.
fn header(bytes: usize) -> Vec<u8> {
    [&[0x81, 127][..], &(bytes as u64).to_be_bytes()].concat()
}

#[test]
fn whatever_the_other_side_does_ends_in_a_reason() {
    type Serve = Box<dyn FnOnce(TcpStream) + Send>;
    let refuse: Serve = Box::new(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    });
    let dribble: Serve = Box::new(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nx: ");
        while stream.write_all(b"y").is_ok() {
            thread::sleep(QUICK.ping);
        }
    });
    let half = [header(1000), b"half".to_vec()].concat();
    let too_long = MAX_LINE_BYTES + 1;
    let lost = "ended: the connection was lost: ";
    let cases: [(&str, Serve, &[&str]); 7] = [
        ("refuses", refuse, &["ended: URL speaks no WebSocket: HTTP error: 403 Forbidden"]),
        ("never done", dribble, &["ended: URL does not answer the WebSocket handshake"]),
        ("vanishes", Box::new(raw(vec![])), &["connected", lost]),
        ("vanishes in mid-message", Box::new(raw(half)), &["connected", lost]),
        (
            "too long",
            Box::new(raw(header(too_long))),
            &["connected", "dropped 67108865", "ended: a message of 67108865 bytes is more than is taken"],
        ),
        ("masked", Box::new(raw(vec![0x81, 0x81, 0, 0, 0, 0, 0])), &["connected", "ended: it breaks the p"]),
        (
            "silent",
            Box::new(|stream| {
                let _socket = accept(stream).unwrap();
                thread::sleep(SOON / 10);
            }),
            &["connected", "ended: nothing was heard of it for"],
        ),
    ];
    for (name, serve, expected) in cases {
        let started = Instant::now();
        let all = peer(QUICK, serve).all();
        let fits = |(got, expected): (&String, &&str)| got.starts_with(expected);
        assert!(all.len() == expected.len() && all.iter().zip(expected).all(fits), "{name}: {all:?}");
        assert!(started.elapsed() < SOON / 10, "{name} took {:?}", started.elapsed());
    }
}

#[test]
fn nobody_there_is_a_reason_too() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (inbox, inputs) = bounded(1);
    let _socket = Socket::start(&Endpoint { url: format!("ws://{address}"), address }, 7, &inbox);
    let Ok(Input::Child { event: FromChild::Exited { reason }, .. }) = inputs.recv_timeout(SOON) else {
        panic!("it did not end");
    };
    assert!(reason.contains("cannot be reached: Connection refused"), "{reason}");
}

#[test]
fn both_sides_may_close_and_hear_the_other_ones_word() {
    let goodbye = peer(QUICK, |stream| {
        let mut socket = accept(stream).unwrap();
        for text in [r#"{"method":"codex/event/x","params":{}}"#, "no protocol", r#"{"method":"a/b"}"#] {
            socket.send(Message::text(text)).unwrap();
        }
        socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "bye".into() })).unwrap();
        loop {
            if let Err(error) = socket.read() {
                return error.to_string();
            }
        }
    });
    assert_eq!(goodbye.all(), ["connected", "a/b", "ended: it closed the connection: 1001 bye"]);
    assert_eq!(goodbye.server.join().unwrap(), tungstenite::Error::ConnectionClosed.to_string());

    let mut stop = peer(QUICK, |stream| {
        let mut socket = accept(stream).unwrap();
        let mut heard = Vec::new();
        while let Ok(message) = socket.read() {
            if message.is_text() {
                thread::sleep(QUICK.close / 2); // the close has arrived by now
                socket.send(Message::text(r#"{"method":"a/b"}"#)).unwrap();
            }
            heard.push(message);
        }
        heard
    });
    assert_eq!(stop.next(), "connected");
    stop.socket.send(json!({"last": "word"}));
    stop.socket.close();
    stop.socket.send(json!({"too": "late"}));
    assert_eq!(stop.all(), ["a/b", "ended: codexd closed the connection"]);
    let heard = stop.server.join().unwrap();
    let said: Vec<_> = heard.iter().filter(|message| !message.is_ping()).collect();
    assert_eq!(said[0], &Message::text(r#"{"last":"word"}"#));
    assert!(said.len() == 2 && said[1].is_close(), "{said:?}");
}

/// An idle server answers pings, and so lives.
#[test]
fn quiet_is_not_dead() {
    let quiet = peer(QUICK, |stream| {
        let mut socket = accept(stream).unwrap();
        let until = Instant::now() + 3 * QUICK.silence;
        let mut pings = 0;
        while Instant::now() < until {
            pings += usize::from(socket.read().unwrap().is_ping());
        }
        pings
    });
    assert!(quiet.all()[1].starts_with("ended: the connection was lost"));
    assert!(quiet.server.join().unwrap() > 3);
}

/// The real one refuses larger frames, and sends larger ones.
#[test]
fn large_messages_go_both_ways() {
    const BYTES: usize = 20 * 1024 * 1024;
    let large = peer(PATIENCE, |stream| {
        let config = WebSocketConfig::default().max_frame_size(Some(MAX_FRAME_BYTES));
        let mut socket = tungstenite::accept_with_config(stream, Some(config)).unwrap();
        let heard = socket.read().unwrap().len();
        let text = json!({"method": "a/b", "params": {"x": "y".repeat(BYTES)}}).to_string();
        socket.send(Message::text(text)).unwrap();
        heard
    });
    assert_eq!(large.next(), "connected");
    let message = json!({"x": "y".repeat(BYTES)});
    large.socket.send(message.clone());
    assert_eq!(large.next(), "a/b");
    assert_eq!(large.server.join().unwrap(), message.to_string().len());
}

#[test]
fn who_does_not_read_is_cut_and_nobody_waits_for_it() {
    let stand_still = |stream: TcpStream| {
        let mut socket = accept(stream).unwrap();
        loop {
            // Alive by all signs but this one.
            if socket.send(Message::text("{}")).is_err() {
                return;
            }
            thread::sleep(QUICK.ping);
        }
    };
    // Whether the queue is full or one write waits: 10 MB may be in the buffers of the system.
    for (messages, patience) in [(2 * TO_CHILD, PATIENCE), (TO_CHILD / 2, QUICK)] {
        let still = peer(patience, stand_still);
        assert_eq!(still.next(), "connected");
        let started = Instant::now();
        let message = json!({"x": "y".repeat(400_000)});
        (0..messages).for_each(|_| still.socket.send(message.clone()));
        assert!(started.elapsed() < SOON / 10, "{:?}", started.elapsed());
        assert_eq!(still.all(), ["ended: it does not read what is sent to it"]);
        assert!(started.elapsed() < PATIENCE.write, "{:?}", started.elapsed());
        still.server.join().unwrap();
    }
}

#[test]
fn a_busy_loop_does_not_hold_the_server_up() {
    const MESSAGES: usize = 300;
    const BYTES: usize = 80 * 1024; // 24 MiB in all: more than the buffers of the system, less than the backlog
    let (said, all_said) = mpsc::channel();
    let flood = peer(PATIENCE, move |stream| {
        let mut socket = accept(stream).unwrap();
        for number in 0..MESSAGES {
            let text =
                json!({"method": format!("a/{number}"), "params": {"x": "y".repeat(BYTES)}}).to_string();
            socket.send(Message::text(text)).unwrap();
        }
        said.send(()).unwrap();
        let _ = socket.close(None);
        while socket.read().is_ok() {}
    });
    all_said.recv_timeout(SOON).unwrap(); // and the loop has taken nothing of it
    assert_eq!(flood.next(), "connected");
    for number in 0..MESSAGES {
        assert_eq!(flood.next(), format!("a/{number}"));
    }
    assert!(flood.next().starts_with("ended: it closed the connection"));
}

#[test]
fn the_backlog_is_bounded() {
    let backlog = Arc::new(Backlog::default());
    backlog.grow(MAX_BACKLOG_BYTES - 1);
    backlog.grow(1);
    let (one_more, grown) = (backlog.clone(), mpsc::channel());
    let waits = thread::spawn(move || {
        one_more.grow(1);
        grown.0.send(()).unwrap();
    });
    assert!(grown.1.recv_timeout(QUICK.write).is_err());
    backlog.shrink(1);
    grown.1.recv_timeout(SOON).unwrap();
    waits.join().unwrap();
}

#[test]
fn what_is_cut_before_it_is_there_does_not_come_to_be() {
    let line = Line::default();
    line.cut("first");
    line.cut("second");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    assert_eq!((line.holds(&stream), line.why()), (Err("first".to_owned()), "first".to_owned()));
}
