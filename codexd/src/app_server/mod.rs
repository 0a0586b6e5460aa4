//! How codexd speaks with app-server: over the pipes of a child of its own, or over the WebSocket of somebody else's.

use std::{io, thread};

use common::child::Signal;
use crossbeam_channel::Sender;
use serde_json::Value;

use crate::core::{Epoch, FromChild, Input, MAX_IN_FLIGHT};

use ahead::Ahead;

mod ahead;
pub mod process;
pub mod protocol;
pub mod socket;

/// The longest line of the child that is taken; measured: 8 MB, without a limit of its own.
pub const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;
/// Messages that wait for the child to read: what is in flight, and answers to more than it can ask in one batch.
pub const TO_CHILD: usize = MAX_IN_FLIGHT + 4 * common::engine::BATCH_INPUTS;

/// Which app-server there is.
#[derive(Clone, Debug)]
pub enum AppServer {
    /// A program that is run here.
    Spawn(process::Program),
    /// One that runs already.
    External(socket::Endpoint),
}

/// The way to app-server, from the side that sends.
pub enum Link {
    /// To a child.
    Process(process::Process),
    /// To one that is none.
    Socket(socket::Socket),
}

impl Link {
    /// Starts or reaches it, on threads of its own; all it does arrives in `inbox` under `epoch`, its end last of its
    /// life but perhaps not last of its lines.
    pub fn start(server: &AppServer, epoch: Epoch, inbox: &Sender<Input>) -> Link {
        match server {
            AppServer::Spawn(program) => Link::Process(process::Process::start(program, epoch, inbox)),
            AppServer::External(endpoint) => Link::Socket(socket::Socket::start(endpoint, epoch, inbox)),
        }
    }

    /// Which one.
    pub fn epoch(&self) -> Epoch {
        match self {
            Link::Process(process) => process.epoch,
            Link::Socket(socket) => socket.epoch,
        }
    }

    /// Hands a message over. Never waits: an app-server that does not read is cut off.
    pub fn send(&self, message: Value) {
        match self {
            Link::Process(process) => process.send(message),
            Link::Socket(socket) => socket.send(message),
        }
    }

    /// Lets it see that nothing follows, once it has read what was sent.
    pub fn finish(&mut self) {
        match self {
            Link::Process(process) => process.close_stdin(),
            Link::Socket(socket) => socket.close(),
        }
    }

    /// Signals a child's whole group; of what is not ours only the connection ends.
    pub fn signal(&self, signal: Signal) {
        match self {
            Link::Process(process) => process.signal(signal),
            Link::Socket(socket) => socket.cut(),
        }
    }

    /// The number of a child's group, once it runs.
    pub fn pgid(&self) -> Option<u32> {
        match self {
            Link::Process(process) => process.pgid(),
            Link::Socket(_) => None,
        }
    }
}

/// Where all that app-server does goes.
#[derive(Clone)]
struct Report {
    epoch: Epoch,
    inbox: Sender<Input>,
}

impl Report {
    /// May block while the daemon is busy; nothing waits for a thread that does. Without a daemon nobody listens.
    fn send(&self, event: FromChild) {
        let _ = self.inbox.send(Input::Child { epoch: self.epoch, event });
    }

    /// Hands on what a line says, as far as it is of any use, once there is room for it.
    fn hand_on(&self, line: &[u8], ahead: &mut Ahead) -> Said {
        if protocol::is_legacy(line) {
            return Said::Twice;
        }
        let event = protocol::parse(line);
        let said = if event.is_some() { Said::Protocol } else { Said::Noise };
        if let Some(event) = event.or_else(|| protocol::torn(line)) {
            ahead.wait(&event);
            self.send(event);
        }
        said
    }
}

/// What a line of app-server was.
#[derive(PartialEq)]
enum Said {
    Protocol,
    /// What another line says, too.
    Twice,
    Noise,
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Each of them reads or writes JSON messages.
    thread::Builder::new().name(name).stack_size(256 * 1024).spawn(run).map(drop)
}
