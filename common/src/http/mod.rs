//! HTTP/1.1 for daemons that trust nobody: our own listener, a strict and bounded parser, one table of routes.
//!
//! Owns sockets, their deadlines and every bound that a client could push against. A handler is a function from a
//! complete `Request` to an `Answer`; it never sees a socket, except where it asks for an upgrade. Knows nothing of
//! sessions, tasks or tokens.
//!
//! In reading order: `route` (the table), `listener` (accept and stop), `session` (one connection), `incoming` (bytes
//! in), `request`, `gate`, `response` (bytes out), `stats` (what is counted).

mod gate;
mod incoming;
mod listener;
mod request;
mod response;
mod route;
mod session;
mod stats;

use std::time::Duration;

pub use gate::Gate;
pub(crate) use incoming::close_gently;
pub use listener::{Running, Server, admit_all};
pub use request::{Client, Request};
pub use response::{Answer, Run, Socket, Style, Writer};
pub use route::{Access, Asks, Form, Handler, Kind, Method, Route, Surface, faults, records};
pub use stats::Stats;

/// Connections at once. A thread and a descriptor each; far above what one node needs.
pub const MAX_CONNECTIONS: usize = 1024;
/// The last connections serve only probes, so that a full node can still say how it is.
pub const RESERVED_CONNECTIONS: usize = 16;
/// Descriptors that are not for connections: log segments, documents, the child's pipes, upstream sockets.
pub const RESERVED_DESCRIPTORS: u64 = 96;
/// Descriptors we count on where the system does not tell: what launchd gives by default.
pub const FEWEST_DESCRIPTORS: u64 = 256;
/// Request line and headers. Ours are below 1 KB; a browser's cookies for localhost may be some KB.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Headers of one request. A browser behind a proxy sends about 30.
pub const MAX_HEADERS: usize = 100;
/// One body. A turn with images inline has a few MB.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Bodies in memory for the whole node: four of the largest.
pub const MAX_BODIES_BYTES: usize = 64 * 1024 * 1024;

/// A head, from its first byte to its last: it is one segment or two.
pub const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// The same on a reserved connection, which others wait for.
pub const RESERVED_WITHIN: Duration = Duration::from_secs(1);
/// A body: the largest one at 7 Mbit/s.
pub const BODY_WITHIN: Duration = Duration::from_secs(20);
/// Silence between two requests. Clients that pool connections expect about this much.
pub const IDLE_FOR: Duration = Duration::from_secs(60);
/// A client that takes no byte (a WebSocket peer: and sends none) for so long is taken for dead.
pub const PROGRESS_WITHIN: Duration = Duration::from_secs(60);
/// A refused client may send on for so long before the socket closes under it.
pub const LINGER_FOR: Duration = Duration::from_secs(1);
/// From one WebSocket ping to the next: two may be lost before a peer counts as dead.
pub const PING_EVERY: Duration = Duration::from_secs(20);
/// A WebSocket peer's answer to our close; a slow one first reads what is on its way.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How often one who works long for a client looks whether it is still there: what it holds for one that has left, others
/// may wait for.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// All large answers that are being sent: clients that never read would otherwise fill the memory.
pub const MAX_ANSWERS_BYTES: usize = 64 * 1024 * 1024;

/// The bounds of one server. `Default` is what the daemons use; tests take shorter ones.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `MAX_CONNECTIONS`; less if descriptors are few.
    pub connections: usize,
    /// `RESERVED_CONNECTIONS`.
    pub reserved: usize,
    /// `MAX_BODY_BYTES`.
    pub body_bytes: usize,
    /// `MAX_BODIES_BYTES`.
    pub bodies_bytes: usize,
    /// `MAX_ANSWERS_BYTES`.
    pub answers_bytes: usize,
    /// `HEAD_WITHIN`; a new connection has so long for its first byte, too.
    pub head: Duration,
    /// `RESERVED_WITHIN`.
    pub reserved_head: Duration,
    /// `BODY_WITHIN`.
    pub body: Duration,
    /// `IDLE_FOR`.
    pub idle: Duration,
    /// `PROGRESS_WITHIN`.
    pub progress: Duration,
    /// `LINGER_FOR`.
    pub linger: Duration,
    /// `PING_EVERY`.
    pub ping: Duration,
    /// `CLOSE_WITHIN`.
    pub close: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: MAX_CONNECTIONS,
            reserved: RESERVED_CONNECTIONS,
            body_bytes: MAX_BODY_BYTES,
            bodies_bytes: MAX_BODIES_BYTES,
            answers_bytes: MAX_ANSWERS_BYTES,
            head: HEAD_WITHIN,
            reserved_head: RESERVED_WITHIN,
            body: BODY_WITHIN,
            idle: IDLE_FOR,
            progress: PROGRESS_WITHIN,
            linger: LINGER_FOR,
            ping: PING_EVERY,
            close: CLOSE_WITHIN,
        }
    }
}
