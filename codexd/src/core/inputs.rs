//! Everything that can happen to the core, everything that it can decide, and what it is born with.

use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::child::Signal;
use common::log::Seq;
use common::time::Timestamp;
use serde_json::Value;

use super::{Call, CallId, Epoch, Reply};
use crate::app_server::protocol::RpcError;
use crate::ceilings::Ceilings;
use crate::cut::Whole;
use crate::event::Notice;
use crate::state::TurnStatus;

/// Everything that happens.
#[derive(Debug)]
pub enum Input {
    /// The process begins; the first input.
    Start,
    /// Somebody wants something.
    Call { id: CallId, call: Call },
    /// Who made this call is gone.
    Gone { id: CallId },
    /// The child did something.
    Child { epoch: Epoch, event: FromChild },
    /// A deadline has come.
    Tick,
    /// A checkpoint of everything up to here is safe on disk.
    Checkpointed(Seq),
    /// Transcripts hold more than they may: these are to go, each of so many bytes.
    TranscriptsOver(Vec<(String, u64)>),
    /// The process is asked to end.
    Stop(&'static str),
}

/// What the child does.
#[derive(Debug)]
pub enum FromChild {
    /// Its process runs.
    Spawned { pid: u32, process_mark: String },
    /// The one that somebody else runs was reached.
    Connected { endpoint: String },
    /// It answered a request.
    Answer { rpc: u64, result: Result<Value, RpcError> },
    /// It told something.
    Notice(Box<Notice>),
    /// It asks something and waits.
    Asked { id: Value, notice: Box<Notice> },
    /// It sent a line over the bound.
    LineDropped { bytes: u64 },
    /// It is gone with its whole group, or was never there.
    Exited { reason: String },
}

/// Everything that can be done.
#[derive(Debug)]
pub enum Effect {
    /// Write this line to the log.
    Append {
        /// The line.
        line: String,
        /// The session whose transcript keeps it, too.
        session_id: Option<String>,
        /// What the line holds cut: to be safe on disk before the line is.
        whole: Option<Arc<Whole>>,
        /// How the turn ended that it ends.
        ended: Option<TurnStatus>,
    },
    /// Let go of what is kept of a session's turns.
    Forget { session_id: String },
    /// Answer a caller.
    Reply { id: CallId, outcome: Result<Reply, Error> },
    /// Start a child.
    Spawn(Epoch),
    /// Send it a message.
    Send { epoch: Epoch, message: Value },
    /// Tell it that nothing follows.
    CloseStdin(Epoch),
    /// Signal its group.
    Signal { epoch: Epoch, signal: Signal },
    /// Let segments go that this and the checkpoint before it make needless.
    Checkpointed(Seq),
    /// End the process.
    Exit,
}

/// What a process brings to the state that it takes up.
#[derive(Clone, Debug)]
pub struct Birth {
    /// The name for a log without a past.
    pub new_log_id: Option<String>,
    /// The number that the log gives next.
    pub next: Seq,
    /// What became of the time before, in words that end a sentence.
    pub past: &'static str,
    /// No child of this process had a higher epoch.
    pub epoch_floor: Epoch,
    /// The process.
    pub pid: u32,
    /// What tells it from a later one with that pid.
    pub process_mark: String,
    /// When it began.
    pub process_started_at: Timestamp,
    /// Its version.
    pub version: String,
    /// What it is told to hold to.
    pub rules: Rules,
}

/// What the process was configured to do.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The child is somebody else's: it may live on when codexd loses it.
    pub external: bool,
    /// How long an approval waits for an answer.
    pub approval_timeout: Duration,
    /// What callers may ask for at the most.
    pub ceilings: Arc<Ceilings>,
}
