//! WebSocket, the server's half: handshake, one thread that reads, one that writes.
//!
//! Owns the protocol: frames, pings, closes, and when a peer is dead. Knows nothing of what the messages say.

use std::io::{self, Read, Write};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::http as types;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use crate::error::{INVALID_REQUEST, UPGRADE_REQUIRED};
use crate::http::{Answer, Limits, Request, Socket, close_gently};
use crate::{Error, trace};

/// A peer's read buffer; tungstenite's own default of 128 KB is paid for each client.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// One message from a client. Ours are commands of some hundred bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// `Frames` takes no more once it holds so much; one write goes out.
pub const MAX_BATCH_BYTES: usize = 64 * 1024;
/// Pongs and closes that wait for the writer; a peer that pings on and takes nothing is not answered further.
const MAX_CONTROL_BYTES: usize = 16 * 1024;
/// Reads JSON messages and calls what serves them.
const STACK_BYTES: usize = 256 * 1024;
/// A write that took so long had to wait for the peer to make room; a faster one only filled a buffer of ours.
const WAITED: Duration = Duration::from_millis(20);

/// The answer that makes a WebSocket of this request; `run` gets the peer and keeps the connection until it returns.
///
/// # Errors
/// `upgrade_required` if the request asks for no WebSocket, or for another version of it; `invalid_request` if its
/// handshake is wrong.
pub fn upgrade(request: &Request, run: impl FnOnce(Peer) + Send + 'static) -> Result<Answer, Error> {
    if !request.wants_websocket() {
        return Err(required("This route speaks WebSocket only."));
    }
    let head = handshake(request)?;
    let id = request.id.clone();
    Ok(Answer::Upgrade(Box::new(move |socket| match (&*socket.stream).write_all(&head) {
        Ok(()) => run(Peer { socket, id }),
        Err(error) => trace::debug(Some(&id), format_args!("a handshake could not be sent: {error}")),
    })))
}

/// What the writer does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Sends what is in the frames, and asks again.
    Go,
    /// Sends what is in the frames, then closes with this code and reason (at most 123 bytes).
    Close(u16, String),
}

/// Messages that go out in one write.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Adds a text message.
    pub fn text(&mut self, text: &str) {
        let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
        put(header.format(text.len() as u64, &mut self.bytes));
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Whether there is nothing to send: only then may a source park.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that fit before the batch is full; one message may be larger than that.
    pub fn room(&self) -> usize {
        MAX_BATCH_BYTES.saturating_sub(self.bytes.len())
    }
}

/// A connection whose handshake is done.
pub struct Peer {
    socket: Socket,
    id: String,
}

impl Peer {
    /// The connection itself, for those who pass its bytes on and speak no WebSocket.
    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// Speaks WebSocket until either side ends it: this thread reads and calls `on_text`, one more thread, `name`,
    /// calls `source` and writes.
    ///
    /// `source` fills the frames it is given, or else, with nothing to send, parks its thread (`thread::park_timeout`)
    /// until the instant it is given at the latest. Anybody may `unpark` that thread; it is unparked after each
    /// `on_text`, so that a message may be answered. It must not wait in a channel, whose own parking would eat the
    /// wake-up.
    pub fn run(
        self,
        name: &str,
        mut on_text: impl FnMut(&str),
        source: impl FnMut(&mut Frames, Instant) -> Flow + Send,
    ) {
        let Peer { socket: Socket { stream, leftover, limits }, id } = self;
        // the writer notices death, and shuts the socket under the reader
        let every = limits.progress / 4;
        if stream.set_read_timeout(None).and_then(|()| stream.set_write_timeout(Some(every))).is_err() {
            return;
        }
        let line = Line {
            stream: &stream,
            start: Instant::now(),
            alive: AtomicU64::new(0),
            control: Mutex::default(),
        };
        let fault = thread::scope(|scope| {
            let writer = Writer { line: &line, limits: &limits, source };
            let builder = thread::Builder::new().name(name.to_string()).stack_size(STACK_BYTES);
            match builder.spawn_scoped(scope, move || writer.run()) {
                Ok(writer) => read(&line, writer.thread(), leftover, &mut on_text),
                Err(error) => {
                    trace::warn(Some(&id), format_args!("no thread for a WebSocket: {error}"));
                    false
                }
            }
        });
        if fault {
            close_gently(&stream, limits.linger); // the peer may be in the middle of what was refused
        }
    }
}

/// What both threads of a peer share.
struct Line<'a> {
    stream: &'a TcpStream,
    start: Instant,
    /// Milliseconds from `start` to the last sign of life.
    alive: AtomicU64,
    control: Mutex<Control>,
}

/// What the reader hands the writer.
#[derive(Default)]
struct Control {
    /// Pongs and closes, whole frames.
    bytes: Vec<u8>,
    /// The reader reads no more: write these bytes, then end.
    over: bool,
}

impl Line<'_> {
    fn touch(&self) {
        self.alive.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn dies_at(&self, silence: Duration) -> Instant {
        self.start + Duration::from_millis(self.alive.load(Ordering::Relaxed)) + silence
    }

    fn hand(&self, frames: &[u8], over: bool) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if control.bytes.len() + frames.len() <= MAX_CONTROL_BYTES {
            control.bytes.extend_from_slice(frames);
        }
        control.over |= over;
    }

    fn handed(&self) -> (Vec<u8>, bool) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        (mem::take(&mut control.bytes), control.over)
    }
}

// ---- the reading half ----

/// tungstenite's view of the socket: it reads, and what it would write goes to the writer.
struct Half<'a> {
    line: &'a Line<'a>,
    writer: &'a thread::Thread,
}

impl Read for Half<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.line.stream;
        let bytes = loop {
            match stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if bytes > 0 {
            self.line.touch();
        }
        Ok(bytes)
    }
}

impl Write for Half<'_> {
    /// Gets whole frames, and no `flush` after the last one.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.hand(bytes, false);
        self.writer.unpark();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends the writer with the reader, also when `on_text` panics.
struct Over<'a>(&'a Line<'a>, &'a thread::Thread);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.hand(&[], true);
        self.1.unpark();
    }
}

/// Reads until the peer closes, leaves, or breaks the protocol; true if it was that.
fn read(line: &Line, writer: &thread::Thread, leftover: Vec<u8>, on_text: &mut impl FnMut(&str)) -> bool {
    let _over = Over(line, writer);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let half = Half { line, writer };
    let mut socket = WebSocket::from_partially_read(half, leftover, Role::Server, Some(config));
    let fault = loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                on_text(&text);
                writer.unpark();
            }
            Ok(Message::Binary(_)) => break Some((CloseCode::Unsupported, "only text messages are taken")),
            Ok(_) => {} // pongs and closes are answered by the next read
            Err(error) => break fault(&error),
        }
    };
    if let Some((code, reason)) = fault {
        let mut frame = Vec::new();
        append(&mut frame, close(code, reason));
        line.hand(&frame, false);
    }
    fault.is_some()
}

/// How to close for an error; `None` where the peer has closed or is gone.
fn fault(error: &tungstenite::Error) -> Option<(CloseCode, &'static str)> {
    use tungstenite::Error::{Capacity, Protocol, Utf8};
    match error {
        Capacity(CapacityError::MessageTooLong { .. }) => Some((CloseCode::Size, "the message is too large")),
        Utf8(_) => Some((CloseCode::Invalid, "a text message is not UTF-8")),
        Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Protocol(_) => Some((CloseCode::Protocol, "that is no WebSocket frame of a client")),
        _ => None,
    }
}

// ---- the writing half ----

struct Writer<'a, F> {
    line: &'a Line<'a>,
    limits: &'a Limits,
    source: F,
}

/// Shuts the socket if the writer ends before the reader, which would wait for a peer that nobody writes to.
struct Cut<'a>(Option<&'a TcpStream>);

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let _ = self.0.map(|stream| stream.shutdown(Shutdown::Both));
    }
}

impl<F: FnMut(&mut Frames, Instant) -> Flow> Writer<'_, F> {
    fn run(mut self) {
        let mut cut = Cut(Some(self.line.stream));
        if matches!(self.write_all(), Ok(ControlFlow::Continue(()))) {
            cut.0 = None;
        }
    }

    /// `Continue` if the reader has ended, `Break` if the source has.
    fn write_all(&mut self) -> io::Result<ControlFlow<()>> {
        let mut next_ping = Instant::now() + self.limits.ping;
        let mut frames = Frames::default();
        loop {
            let (mut control, over) = self.line.handed();
            if Instant::now() >= next_ping {
                append(&mut control, Frame::ping(Vec::new()));
                next_ping = Instant::now() + self.limits.ping;
            }
            self.send(&control)?;
            if over {
                return Ok(ControlFlow::Continue(()));
            }
            let dies_at = self.line.dies_at(self.limits.progress);
            if Instant::now() >= dies_at {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let flow = (self.source)(&mut frames, next_ping.min(dies_at));
            self.send(&frames.bytes)?;
            frames.bytes.clear();
            frames.bytes.shrink_to(MAX_BATCH_BYTES);
            if let Flow::Close(code, reason) = flow {
                append(&mut frames.bytes, close(code.into(), &reason));
                self.send(&frames.bytes)?;
                self.await_reader();
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.line.stream;
        while !bytes.is_empty() {
            let start = Instant::now();
            match stream.write(&bytes[..bytes.len().min(MAX_BATCH_BYTES)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    if start.elapsed() >= WAITED {
                        self.line.touch();
                    }
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if Instant::now() >= self.line.dies_at(self.limits.progress) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for the peer's own close, which ends the reader.
    fn await_reader(&self) {
        let deadline = Instant::now() + self.limits.close;
        while !self.line.handed().1 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

// ---- frames and the handshake ----

fn append(bytes: &mut Vec<u8>, frame: Frame) {
    put(frame.format(bytes));
}

/// Writing to a Vec cannot fail.
fn put(result: tungstenite::Result<()>) {
    if let Err(error) = result {
        trace::error(None, format_args!("a frame could not be written: {error}"));
    }
}

fn close(code: CloseCode, reason: &str) -> Frame {
    let mut end = reason.len().min(123); // a control frame has 125 bytes, two are the code
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    Frame::close(Some(CloseFrame { code, reason: reason[..end].into() }))
}

fn handshake(request: &Request) -> Result<Vec<u8>, Error> {
    let version =
        if request.minor_version() == 1 { types::Version::HTTP_11 } else { types::Version::HTTP_10 };
    let mut builder = types::Request::builder().method("GET").uri("/").version(version);
    for (name, value) in request.headers() {
        builder = builder.header(name, value);
    }
    let wrong = |error: &dyn std::fmt::Display| {
        Error::new(INVALID_REQUEST, format!("The WebSocket handshake is wrong: {error}."))
    };
    let typed = builder.body(()).map_err(|error| wrong(&error))?;
    let mut response = create_response(&typed).map_err(|error| match error {
        tungstenite::Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            required("The only WebSocket version spoken here is 13.")
        }
        error => wrong(&error),
    })?;
    if let Ok(id) = request.id.parse() {
        response.headers_mut().insert("x-request-id", id);
    }
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(|error| wrong(&error))?;
    Ok(bytes)
}

fn required(message: &str) -> Error {
    Error::new(UPGRADE_REQUIRED, message).header("Sec-WebSocket-Version", "13")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_frames_wait_within_a_bound() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let line = Line {
            stream: &stream,
            start: Instant::now(),
            alive: AtomicU64::new(0),
            control: Mutex::default(),
        };
        for _ in 0..1000 {
            line.hand(&[0; 127], false);
        }
        line.hand(&[], true);
        let (bytes, over) = line.handed();
        assert_eq!(
            (bytes.len(), over),
            (MAX_CONTROL_BYTES / 127 * 127, true),
            "whole frames, and the end is never lost"
        );
        line.hand(&[0; 127], false);
        assert_eq!(line.handed().0.len(), 127);
    }

    #[test]
    fn messages_are_unmasked_text_frames() {
        let mut frames = Frames::default();
        assert!(frames.is_empty());
        frames.text("\u{fc}");
        assert_eq!(frames.bytes, b"\x81\x02\xc3\xbc");
        frames.text(&"x".repeat(MAX_BATCH_BYTES));
        assert_eq!(frames.bytes[4..14], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!((frames.room(), frames.is_empty()), (0, false));
    }

    #[test]
    fn a_reason_is_cut_to_fit_a_control_frame() {
        for reason in ["", "done", &"x".repeat(200), &"\u{fc}".repeat(100), &"\u{20ac}".repeat(60)] {
            let mut bytes = Vec::new();
            append(&mut bytes, close(CloseCode::Away, reason));
            assert!(bytes.len() <= 127 && bytes[..2] == [0x88, bytes.len() as u8 - 2]);
            assert!(reason.starts_with(str::from_utf8(&bytes[4..]).unwrap()));
        }
    }
}
