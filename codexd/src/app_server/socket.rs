//! An app-server that somebody else runs (`codex app-server --listen ws://127.0.0.1:PORT`), reached over its WebSocket: a
//! thread that connects and hands on, one that reads, and one that writes.
//!
//! What the CLI does there, measured with 0.107.0, 0.116.0 and 0.169.0:
//!
//! - A JSON-RPC message is one text message. It sends each in one frame (20 MB seen), takes frames up to 16 MiB and
//!   messages up to 64 MiB, and resets the connection over larger ones. It ignores binary messages, answers a ping and a
//!   close at once, and sends no pings.
//! - The upgrade needs no header, subprotocol or path; one with an `Origin` is refused (403; 0.107.0 takes it).
//! - There may be many clients, each with an `initialize` of its own. A thread's events go to those that started or
//!   resumed it, `thread/started` and `thread/status/changed` to all.
//! - A client that goes ends nothing: its turns go on, and its approvals wait. `thread/resume` on another connection tells
//!   it what follows, and asks those that wait once more, with the same ids; a `turn/start` without it runs unheard. A
//!   thread without a turn cannot be resumed (`no rollout found`) although it is loaded.
//! - A client is cut without a word when a queue of messages for it is full, and what was in that queue is lost: one that
//!   leaves 4 MB unread by 0.169.0, 0.5 MB by 0.107.0. So what is heard never waits for a busy daemon in the socket,
//!   but in a backlog here. 0.107.0 and 0.116.0 cut the fastest client, too, within a few hundred messages of a flood
//!   such as no model sends.
//! - SIGTERM ends it at once, exit code 0, without a close frame.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::trace;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use serde_json::Value;
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, Utf8Bytes, WebSocket};

use super::ahead::Ahead;
use super::{MAX_LINE_BYTES, Report, Said, TO_CHILD, spawn};
use crate::core::{Epoch, FromChild, Input};

/// The largest frame that is sent: app-server takes a message in any number of them, but none over 16 MiB.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// What may have been heard and not yet been handed on: a flood has some 7 MB a second, so this is a loop that stands
/// still for four seconds. Beyond it nothing is read, and app-server may cut the connection.
pub const MAX_BACKLOG_BYTES: usize = 32 * 1024 * 1024;
/// What a message costs beside its text: many small ones are bounded, too.
const MESSAGE_COST_BYTES: usize = 64;

/// How long which part of a connection may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    connect: Duration,
    write: Duration,
    ping: Duration,
    silence: Duration,
    close: Duration,
}

/// For the CLI on this machine, which does each of them within milliseconds.
const PATIENCE: Patience = Patience {
    // Connection and upgrade together: the core gives them and the handshake after them 10 s.
    connect: Duration::from_secs(5),
    // Without taking a byte of what is sent to it.
    write: Duration::from_secs(10),
    // Between two pings: a connection may die without a word.
    ping: Duration::from_secs(20),
    // Without sending a byte, two pings included.
    silence: Duration::from_secs(50),
    // From its close to its end.
    close: Duration::from_secs(1),
};

/// Where it is.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `ws://127.0.0.1:PORT`.
    pub url: String,
    /// The same, as an address.
    pub address: SocketAddr,
}

/// The connection from the side that sends.
pub struct Socket {
    /// Which one.
    pub epoch: Epoch,
    outgoing: Option<Sender<Out>>,
    line: Arc<Line>,
}

/// What the writer is given.
enum Out {
    Message(Value),
    /// Whole frames: pongs, and the answer to a close.
    Frames(Vec<u8>),
    Close,
}

/// What the reader heard.
enum Heard {
    Text(Utf8Bytes),
    TooLong(usize),
}

impl Socket {
    /// Connects on a thread of its own.
    pub fn start(endpoint: &Endpoint, epoch: Epoch, inbox: &Sender<Input>) -> Socket {
        Socket::start_with(PATIENCE, endpoint, epoch, inbox)
    }

    fn start_with(patience: Patience, endpoint: &Endpoint, epoch: Epoch, inbox: &Sender<Input>) -> Socket {
        let (outgoing, queue) = bounded(TO_CHILD);
        let line = Arc::new(Line::default());
        let report = Report { epoch, inbox: inbox.clone() };
        let life = Life {
            patience,
            endpoint: endpoint.clone(),
            report: report.clone(),
            outgoing: outgoing.clone(),
            line: line.clone(),
        };
        let started = spawn(format!("link-{epoch}"), move || {
            if let Err(why) = life.run(queue) {
                life.line.cut(why);
            }
            life.report.send(FromChild::Exited { reason: life.line.why() });
        });
        if let Err(error) = started {
            report.send(FromChild::Exited { reason: format!("no thread for the connection: {error}") });
        }
        Socket { epoch, outgoing: Some(outgoing), line }
    }

    /// Hands a message to the writer. Never waits: an app-server that does not read is cut off.
    pub fn send(&self, message: Value) {
        let Some(outgoing) = &self.outgoing else { return };
        if outgoing.try_send(Out::Message(message)).is_err() {
            self.line.cut("it does not read what is sent to it");
        }
    }

    /// Closes once what was handed over is sent.
    pub fn close(&mut self) {
        let Some(outgoing) = self.outgoing.take() else { return };
        const WHY: &str = "codexd closed the connection";
        match outgoing.try_send(Out::Close) {
            Ok(()) => self.line.ends(WHY),
            Err(_) => self.line.cut(WHY),
        }
    }

    /// Ends the connection without a word, also one that is not there yet.
    pub fn cut(&self) {
        self.line.cut("codexd cut the connection");
    }
}

/// The connection's fate, which all of its threads know.
#[derive(Default)]
struct Line(Mutex<Fate>);

#[derive(Default)]
struct Fate {
    stream: Option<Arc<TcpStream>>,
    cut: bool,
    /// Who knows first what ends it says so.
    why: Option<String>,
}

impl Line {
    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, stream: &Arc<TcpStream>) -> Result<(), String> {
        let mut fate = self.fate();
        fate.stream = Some(stream.clone());
        if fate.cut { Err(fate.why.clone().unwrap_or_default()) } else { Ok(()) }
    }

    fn ends(&self, why: impl Into<String>) {
        self.fate().why.get_or_insert(why.into());
    }

    fn cut(&self, why: impl Into<String>) {
        self.ends(why);
        let mut fate = self.fate();
        fate.cut = true;
        if let Some(stream) = &fate.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn why(&self) -> String {
        self.fate().why.clone().unwrap_or_default()
    }
}

/// What is heard and not yet handed on, in bytes.
#[derive(Default)]
struct Backlog {
    bytes: Mutex<usize>,
    less: Condvar,
}

impl Backlog {
    /// Waits while it is full.
    fn grow(&self, bytes: usize) {
        let held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |held: &mut usize| *held >= MAX_BACKLOG_BYTES;
        let mut held = self.less.wait_while(held, full).unwrap_or_else(PoisonError::into_inner);
        *held += bytes;
    }

    fn shrink(&self, bytes: usize) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.less.notify_one();
    }
}

/// The life of a connection.
struct Life {
    patience: Patience,
    endpoint: Endpoint,
    report: Report,
    outgoing: Sender<Out>,
    line: Arc<Line>,
}

impl Life {
    /// From the connection to the last message that it brought; an error says why it does not come to that.
    fn run(&self, queue: Receiver<Out>) -> Result<(), String> {
        let mut socket = self.connect()?;
        self.report.send(FromChild::Connected { endpoint: self.endpoint.url.clone() });
        let (heard, messages) = unbounded();
        let backlog = Arc::new(Backlog::default());
        let (epoch, patience) = (self.report.epoch, self.patience);
        let no_thread = |error: io::Error| format!("no thread for the connection: {error}");
        let (line, stream) = (self.line.clone(), socket.get_ref().stream.clone());
        spawn(format!("link-out-{epoch}"), move || {
            if let Err(error) = write(&stream, &queue, patience.ping) {
                line.cut(match is_timeout(&error) {
                    true => "it does not read what is sent to it".to_owned(),
                    false => format!("nothing can be sent to it: {error}"),
                });
            }
        })
        .map_err(no_thread)?;
        let (line, filled) = (self.line.clone(), backlog.clone());
        spawn(format!("link-in-{epoch}"), move || line.cut(read(&mut socket, patience, &heard, &filled)))
            .map_err(no_thread)?;
        let mut ahead = Ahead::default();
        for message in messages {
            match message {
                Heard::Text(text) => {
                    if self.report.hand_on(text.as_bytes(), &mut ahead) == Said::Noise {
                        trace::debug(
                            None,
                            format_args!("app-server sent {} bytes of no protocol", text.len()),
                        );
                    }
                    backlog.shrink(text.len() + MESSAGE_COST_BYTES);
                }
                Heard::TooLong(bytes) => self.report.send(FromChild::LineDropped { bytes: bytes as u64 }),
            }
        }
        let _ = self.outgoing.try_send(Out::Close); // the writer may be waiting for something to write
        Ok(())
    }

    fn connect(&self) -> Result<WebSocket<Half>, String> {
        let Endpoint { url, address } = &self.endpoint;
        let deadline = Instant::now() + self.patience.connect;
        let unreached = |error: io::Error| {
            format!("{url} cannot be reached: {error} (--server-endpoint says where it is)")
        };
        let stream = TcpStream::connect_timeout(address, self.patience.connect).map_err(unreached)?;
        let stream = Arc::new(stream);
        self.line.holds(&stream)?;
        stream.set_nodelay(true).map_err(unreached)?;
        stream.set_write_timeout(Some(self.patience.write)).map_err(unreached)?;
        let half = Half { stream, outgoing: self.outgoing.clone(), shakes_until: Some(deadline) };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_LINE_BYTES))
            .max_frame_size(Some(MAX_LINE_BYTES));
        let (mut socket, _) = tungstenite::client::client_with_config(url, half, Some(config)).map_err(
            |error| match error {
                HandshakeError::Interrupted(_) => format!("{url} does not answer the WebSocket handshake"),
                HandshakeError::Failure(error) => format!("{url} speaks no WebSocket: {error}"),
            },
        )?;
        let half = socket.get_mut();
        half.shakes_until = None;
        half.stream.set_read_timeout(Some(self.patience.silence)).map_err(unreached)?;
        Ok(socket)
    }
}

/// tungstenite's view of the connection: it reads, and what it would write goes to the writer.
struct Half {
    stream: Arc<TcpStream>,
    outgoing: Sender<Out>,
    /// While the handshake lasts, when nobody else writes.
    shakes_until: Option<Instant>,
}

impl Read for Half {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(end) = self.shakes_until {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        loop {
            match (&*self.stream).read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shakes_until.is_some() {
            return (&*self.stream).write(bytes);
        }
        // A writer that is full has no room for pongs; whoever wanted them sees that soon enough.
        let _ = self.outgoing.try_send(Out::Frames(bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads to the end, and says why that came.
fn read(
    socket: &mut WebSocket<Half>,
    patience: Patience,
    heard: &Sender<Heard>,
    backlog: &Backlog,
) -> String {
    use tungstenite::Error::{Capacity, ConnectionClosed, Io, Protocol};
    let mut closed = None;
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                backlog.grow(text.len() + MESSAGE_COST_BYTES);
                let _ = heard.send(Heard::Text(text));
            }
            // The next read answers it, and comes to the end of the connection.
            Ok(Message::Close(frame)) => {
                closed =
                    frame.map(|frame| format!(": {} {}", u16::from(frame.code), frame.reason)).or(closed);
                closed = Some(format!("it closed the connection{}", closed.unwrap_or_default()));
                let _ = socket.get_ref().stream.set_read_timeout(Some(patience.close));
            }
            Ok(_) => {}
            Err(Capacity(CapacityError::MessageTooLong { size, .. })) => {
                let _ = heard.send(Heard::TooLong(size));
                return format!("a message of {size} bytes is more than is taken");
            }
            Err(error) => {
                return closed.unwrap_or_else(|| match error {
                    Io(error) if is_timeout(&error) => {
                        format!("nothing was heard of it for {} s", patience.silence.as_secs())
                    }
                    Io(_) | ConnectionClosed | Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                        format!("the connection was lost: {error}")
                    }
                    error => format!("it breaks the protocol of WebSockets: {error}"),
                });
            }
        }
    }
}

/// Writes until it is to close, and asks every so often whether somebody is there.
fn write(mut stream: &TcpStream, queue: &Receiver<Out>, ping: Duration) -> io::Result<()> {
    let mut ping_at = Instant::now() + ping;
    loop {
        let left = ping_at.saturating_duration_since(Instant::now());
        let next = if left.is_zero() { Err(RecvTimeoutError::Timeout) } else { queue.recv_timeout(left) };
        let mut bytes = Vec::new();
        match next {
            Ok(Out::Message(message)) => append_text(&mut bytes, message.to_string().as_bytes()),
            Ok(Out::Frames(frames)) => bytes = frames,
            Ok(Out::Close) => {
                let close = CloseFrame { code: CloseCode::Normal, reason: "codexd ends".into() };
                append(&mut bytes, Frame::close(Some(close)));
                return stream.write_all(&bytes); // the reader hears the answer
            }
            Err(RecvTimeoutError::Timeout) => {
                append(&mut bytes, Frame::ping(Vec::new()));
                ping_at = Instant::now() + ping;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        stream.write_all(&bytes)?;
    }
}

fn append_text(bytes: &mut Vec<u8>, text: &[u8]) {
    let mut chunks = text.chunks(MAX_FRAME_BYTES).peekable();
    let mut data = Data::Text;
    while let Some(chunk) = chunks.next() {
        append(bytes, Frame::message(chunk.to_vec(), OpCode::Data(data), chunks.peek().is_none()));
        data = Data::Continue;
    }
}

/// A frame of a client. Its mask guards against caches between the two, of which loopback has none, so it is zero.
fn append(bytes: &mut Vec<u8>, mut frame: Frame) {
    frame.header_mut().mask = Some([0; 4]);
    let _ = frame.format(bytes); // into memory nothing can fail
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests;
