//! Accepts connections, serves them a thread each, and stops them.
//!
//! Owns every thread and bound of the server. Whatever a client does costs it its own connection and nothing more.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::request::new_request_id;
use super::response::{self, Shape, Style};
use super::session::Session;
use super::{FEWEST_DESCRIPTORS, Gate, Limits, RESERVED_DESCRIPTORS, Request, Route, Stats};
use crate::error::OVERLOADED;
use crate::{Error, sys, trace};

/// Handlers render JSON of bounded depth; this is room for that in an unoptimised build.
const STACK_BYTES: usize = 512 * 1024;
/// How long the threads of connections that were cut may take to notice.
const CUT_WITHIN: Duration = Duration::from_millis(500);
/// After a failed accept or spawn. Descriptors come back when somebody closes, which no event tells.
const PAUSE: Duration = Duration::from_millis(25);

/// Everything that makes a server.
pub struct Server<S: 'static> {
    /// The table.
    pub routes: &'static [Route<S>],
    /// What handlers share.
    pub state: Arc<S>,
    /// How envelopes spell their keys.
    pub style: Style,
    /// Who may ask at all.
    pub gate: Gate,
    /// The message for a method and a path that no route has.
    pub unknown_route: fn(&str, &str) -> String,
    /// Called with the head alone, before the body is read; `admit_all` if there is no token.
    pub authorize: fn(&S, &Route<S>, &Request) -> Result<(), Error>,
    /// The bounds; `Limits::default()` outside tests.
    pub limits: Limits,
    /// Where it counts what it does.
    pub stats: Arc<Stats>,
}

/// An `authorize` that lets everybody in.
pub fn admit_all<S>(_: &S, _: &Route<S>, _: &Request) -> Result<(), Error> {
    Ok(())
}

/// What every connection's thread sees.
pub(super) struct Shared<S: 'static> {
    pub(super) server: Server<S>,
    pub(super) address: SocketAddr,
    desk: Arc<Desk>,
}

/// Who is connected, for the bound and for `stop`.
#[derive(Default)]
struct Desk {
    stopping: AtomicBool,
    open: Mutex<Open>,
    /// How many they are, for who only wants to know that.
    count: Arc<AtomicUsize>,
    left: Condvar,
}

type Open = HashMap<u64, Arc<Connection>>;

pub(super) struct Connection {
    number: u64,
    pub(super) stream: Arc<TcpStream>,
    pub(super) peer: SocketAddr,
    /// Between the last byte of a head and the last byte of its answer.
    busy: AtomicBool,
}

impl<S: Send + Sync + 'static> Server<S> {
    /// Serves in threads of its own until `Running::stop`.
    ///
    /// # Errors
    /// If the accepting thread cannot be made, or the listener is none.
    pub fn start(mut self, listener: TcpListener) -> io::Result<Running> {
        let descriptors = sys::raise_descriptor_limit().unwrap_or(FEWEST_DESCRIPTORS);
        let connections = descriptors.saturating_sub(RESERVED_DESCRIPTORS).try_into().unwrap_or(usize::MAX);
        self.limits.connections = self.limits.connections.min(connections);
        // One that finds the queue full is heard only after its system's next try, a second later.
        sys::set_backlog(&listener, self.limits.connections)?;
        let address = listener.local_addr()?;
        self.stats.most_connections.store(self.limits.connections, Ordering::Relaxed);
        let desk = Arc::new(Desk { count: self.stats.connections.clone(), ..Desk::default() });
        let shared = Shared { server: self, address, desk: desk.clone() };
        let accept = thread::Builder::new()
            .name("http-accept".to_string())
            .spawn(move || accept(&listener, &Arc::new(shared)))?;
        Ok(Running { address, desk, accept })
    }
}

/// A server that serves.
pub struct Running {
    address: SocketAddr,
    desk: Arc<Desk>,
    accept: JoinHandle<()>,
}

impl Running {
    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts the connections that are open, whenever it is called.
    pub fn connections(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let count = self.desk.count.clone();
        move || count.load(Ordering::Relaxed)
    }

    /// Takes no more connections, closes idle ones at once, lets busy ones finish for up to `grace`, then cuts them.
    pub fn stop(self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.desk.stopping.store(true, Ordering::SeqCst);
        while !self.accept.is_finished() {
            // accept() cannot be interrupted, so it is given something to accept
            let _ = TcpStream::connect_timeout(&reachable(self.address), PAUSE);
            thread::sleep(Duration::from_millis(1));
        }
        let open = self.desk.open();
        for connection in open.values().filter(|connection| !connection.busy.load(Ordering::SeqCst)) {
            connection.cut();
        }
        let open = self.desk.wait_empty(open, deadline);
        open.values().for_each(|connection| connection.cut());
        // their threads see it at their next read or write; a handler that computes is not waited for
        drop(self.desk.wait_empty(open, Instant::now() + CUT_WITHIN));
    }
}

impl<S> Shared<S> {
    /// Says that a head is complete (or its answer gone), and learns whether to end.
    ///
    /// First this mark, then the look at `stopping`; `stop` has it the other way round, so one of them sees the other.
    pub(super) fn mark_busy(&self, connection: &Connection, busy: bool) -> bool {
        connection.busy.store(busy, Ordering::SeqCst);
        self.stopping()
    }

    pub(super) fn stopping(&self) -> bool {
        self.desk.stopping.load(Ordering::SeqCst)
    }
}

impl Desk {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, connection: Arc<Connection>) {
        let mut open = self.open();
        open.insert(connection.number, connection);
        self.count.store(open.len(), Ordering::Relaxed);
    }

    /// Says whether it was the last one.
    fn leave(&self, number: u64) -> bool {
        let mut open = self.open();
        open.remove(&number);
        self.count.store(open.len(), Ordering::Relaxed);
        open.is_empty()
    }

    fn wait_empty<'a>(&self, mut open: MutexGuard<'a, Open>, deadline: Instant) -> MutexGuard<'a, Open> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if open.is_empty() || left.is_zero() {
                return open;
            }
            open = self.left.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Connection {
    fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

fn accept<S: Send + Sync>(listener: &TcpListener, shared: &Arc<Shared<S>>) {
    let mut failing = false;
    for number in 0.. {
        let accepted = listener.accept();
        if shared.stopping() {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                take(shared, Connection { number, stream: Arc::new(stream), peer, busy: false.into() });
            }
            Err(error) => {
                // no descriptors, or the peer has left already: the listener itself is fine
                if !mem::replace(&mut failing, true) {
                    trace::warn(None, format_args!("a connection could not be accepted: {error}"));
                }
                thread::sleep(PAUSE);
            }
        }
    }
}

fn take<S: Send + Sync>(shared: &Arc<Shared<S>>, connection: Connection) {
    let limits = &shared.server.limits;
    let open = shared.desk.open().len();
    if open >= limits.connections {
        shared.server.stats.refused.fetch_add(1, Ordering::Relaxed);
        return refuse(&connection.stream, shared.server.style);
    }
    let reserved = open + limits.reserved >= limits.connections;
    let (theirs, connection) = (shared.clone(), Arc::new(connection));
    shared.desk.enter(connection.clone());
    let number = connection.number;
    let builder = thread::Builder::new().name("http".to_string()).stack_size(STACK_BYTES);
    let spawned = builder.spawn(move || {
        let _left = Leaving(&theirs.desk, number);
        match prepare(&connection.stream, &theirs.server.limits) {
            Ok(()) => Session::new(&theirs, &connection, reserved).serve(),
            Err(error) => trace::debug(None, format_args!("connection of {}: {error}", connection.peer)),
        }
    });
    if let Err(error) = spawned {
        shared.desk.leave(number);
        trace::warn(None, format_args!("no thread for a connection: {error}"));
        thread::sleep(PAUSE);
    }
}

/// Strikes a connection off, whatever ended its thread.
struct Leaving<'a>(&'a Desk, u64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let last = self.0.leave(self.1);
        self.0.left.notify_all();
        if last {
            sys::trim_heap(); // a crowd's buffers would stay with us through a quiet night
        }
    }
}

fn prepare(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    stream.set_nodelay(true)?; // or answers over 1 KB wait for a delayed ACK
    stream.set_write_timeout(Some(limits.progress))
}

/// Answers 503 without ever waiting for the client.
fn refuse(mut stream: &TcpStream, style: Style) {
    let shape = Shape { minor: 1, head: false, keep: false, id: new_request_id(), style };
    let answer = response::failure(&shape, &overloaded("The node is at its bound of connections."));
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(&answer));
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut [0; 4096]); // what stays unread makes the close a reset
}

pub(super) fn overloaded(message: &str) -> Error {
    Error::new(OVERLOADED, message).header("Retry-After", "1")
}
