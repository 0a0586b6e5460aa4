//! Performs what the core decides: replies, the child, checkpoints and documents. Runs on the main thread.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::child::{self, Signal};
use common::desk::CALLS;
use common::engine::Shell;
use common::error;
use common::log::{Log, Seq};
use common::time::Now;
use common::trace::{self, Level};
use crossbeam_channel::{Sender, bounded};

use crate::app_server::{AppServer, Link};
use crate::core::{Birth, CALL_DEADLINE, Call, CallId, Core, Effect, Input, Reply, SessionSeen, Snapshot};
use crate::documents::{self, Documents, Paths, VIEWS_EVERY, VIEWS_LAG, VIEWS_PAUSE};
use crate::metrics::Tally;
use crate::state::{ChildStatus, State};
use crate::transcript::Keeper;

/// Lines of the child that wait for the loop. Each is at most 256 KiB of detail, so this bounds bytes, too.
pub const CHILD_LINES: usize = 64;
/// How long the last documents and the last checkpoint may take at stop.
const FINISH_PATIENCE: Duration = Duration::from_secs(2);
/// How long the group of a child that had to be killed may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Where callers find the loop, and the loop its callers.
pub struct Desk(common::desk::Desk<Input, Reply>);

impl Desk {
    /// A desk whose calls go into `calls`.
    pub fn new(calls: Sender<Input>) -> Desk {
        Desk(common::desk::Desk::new("codexd", calls))
    }

    /// Asks the loop and waits for its answer.
    ///
    /// # Errors
    /// The loop's own; `overloaded` if it takes no calls, `internal_error` if it gives no answer.
    pub fn ask(&self, call: Call) -> Result<Reply, Error> {
        self.ask_for(call, CALL_DEADLINE, &|| false)
    }

    /// Asks the loop for an answer that it may take `patience` to give. Who is `gone` meanwhile is not waited for.
    ///
    /// # Errors
    /// As `ask`.
    pub fn ask_for(&self, call: Call, patience: Duration, gone: &dyn Fn() -> bool) -> Result<Reply, Error> {
        self.0.ask_while(patience, |id| Input::Call { id, call }, gone, |id| Some(Input::Gone { id }))
    }

    fn reply(&self, id: CallId, outcome: Result<Reply, Error>) {
        self.0.reply(id, outcome);
    }
}

/// The hands of codexd.
pub struct World {
    /// Who is answered.
    pub desk: Arc<Desk>,
    /// What is started, or reached.
    pub server: AppServer,
    /// Where what the child does goes.
    pub inbox: Sender<Input>,
    /// Where the loop is asked for something by its own hands.
    pub calls: Sender<Input>,
    /// Where everything lies.
    pub paths: Paths,
    /// What the process brings.
    pub birth: Birth,
    /// The state as the disk has it, as long as nothing was added to it since it was read.
    pub taken_up: Option<State>,
    /// The thread that writes documents; taken at the end.
    pub documents: Option<Documents>,
    /// The way to the child.
    pub link: Option<Link>,
    /// What was last said of the child.
    pub told: ChildStatus,
    /// What `GET /metrics` shows of what is done here.
    pub tally: Arc<Tally>,
    /// What is kept of turns.
    pub transcripts: Keeper,
    /// What the documents should say and do not yet, and from when on they may.
    pub views: Views,
}

/// When the documents are written next.
#[derive(Default)]
pub struct Views {
    stale: bool,
    seq: Seq,
    not_before: Duration,
    /// What the last two checkpoints hold, the older one first.
    covered: [Seq; 2],
}

impl Views {
    /// Nothing is stale, and the two checkpoints on disk hold this much, the older one first.
    pub fn new(covered: [Seq; 2]) -> Views {
        Views { covered, ..Views::default() }
    }
}

impl World {
    fn offer_views(&mut self, machine: &Core, now: Now) {
        let state = machine.state();
        // What begins goes on for a moment, and its own commits would wait for the disk behind the documents.
        if state.seq() != self.views.seq && !std::mem::replace(&mut self.views.stale, true) {
            self.views.not_before = self.views.not_before.max(now.mono + VIEWS_LAG);
        }
        self.views.seq = state.seq();
        if !self.views.stale || now.mono < self.views.not_before {
            return;
        }
        let Some(documents) = &self.documents else { return };
        let taken = documents.offer(Snapshot::new(state, usize::MAX));
        self.views.not_before = now.mono + VIEWS_EVERY.max(documents.last_took() * VIEWS_PAUSE);
        self.views.stale = !taken;
    }

    /// A line on stderr whenever the child has changed: the first place where people look.
    fn tell_of_child(&mut self, machine: &Core) {
        let child = machine.state().child();
        if std::mem::replace(&mut self.told, child.status) == child.status {
            return;
        }
        let version = ("version", child.version.clone().into());
        let reason = ("reason", child.last_error.clone().into());
        match (child.status, &child.warning) {
            (ChildStatus::Running, Some(warning)) => {
                let fields = [version, ("warning", warning.as_str().into())];
                trace::write(Level::Warn, None, format_args!("app-server is ready"), &fields);
            }
            (ChildStatus::Running, None) => {
                trace::write(Level::Info, None, format_args!("app-server is ready"), &[version]);
            }
            (ChildStatus::Backoff, _) if child.last_error.is_some() => {
                trace::write(Level::Warn, None, format_args!("app-server ended"), &[reason]);
            }
            (ChildStatus::Failed, _) if child.last_error.is_some() => {
                trace::write(Level::Error, None, format_args!("app-server does not come up"), &[reason]);
            }
            _ => {}
        }
    }

    fn finish(&mut self, machine: &Core) {
        if let Some(documents) = self.documents.take() {
            let state = machine.state().clone();
            documents.finish(Snapshot::new(&state, usize::MAX), state, FINISH_PATIENCE);
        }
    }
}

impl Shell<Core> for World {
    fn rebuild(&mut self, log: &Log) -> io::Result<Core> {
        let state = match self.taken_up.take() {
            Some(state) => state,
            None => {
                self.birth.past = "the state could not be made durable";
                documents::replay(&self.paths)?
            }
        };
        self.tally.taken_up(&state);
        self.taken_up = Some(state.clone()); // a full disk is tried again each second: not all of it is read each time
        self.birth.next = log.next();
        Ok(Core::new(state, self.birth.clone()))
    }

    fn prepare(&mut self, effects: &[Effect]) -> io::Result<()> {
        for effect in effects {
            if let Effect::Append { session_id: Some(session_id), whole: Some(whole), .. } = effect {
                self.transcripts.keep_whole(session_id, whole).map_err(|error| {
                    io::Error::new(error.kind(), format!("what a transcript holds whole: {error}"))
                })?;
            }
        }
        Ok(())
    }

    fn committed(&mut self, machine: &Core, now: Now, log: &mut Log, closed: Option<Seq>) {
        self.birth.new_log_id = None;
        self.taken_up = None;
        self.tally.stands(machine.state());
        self.tell_of_child(machine);
        self.transcripts.catch_up(
            log.feed(),
            now.mono,
            closed.is_some() || !machine.state().daemon().started,
        );
        let over = self.transcripts.over(machine.state(), now.mono);
        if !over.is_empty() {
            let _ = self.calls.try_send(Input::TranscriptsOver(over)); // one without room is sent again
        }
        if let (Some(_), Some(documents)) = (closed, &self.documents) {
            documents.checkpoint(machine.state().clone());
        }
        // The older of the two checkpoints must still find its lines.
        log.forget_up_to(self.views.covered[0]);
        self.offer_views(machine, now);
        if !machine.state().daemon().started {
            self.finish(machine);
        }
    }

    fn perform(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Append { line, session_id, ended, .. } => {
                if let Some(session_id) = session_id {
                    self.transcripts.append(&session_id, &line);
                }
                if let Some(status) = ended {
                    self.tally.turn_ended(status);
                }
            }
            Effect::Forget { session_id } => self.transcripts.forget(&session_id),
            Effect::Reply { id, outcome } => self.desk.reply(id, outcome),
            Effect::Spawn(epoch) => {
                self.birth.epoch_floor = epoch;
                self.link = Some(Link::start(&self.server, epoch, &self.inbox));
            }
            Effect::Send { epoch, message } => {
                if let Some(link) = self.link.as_ref().filter(|link| link.epoch() == epoch) {
                    link.send(message);
                }
            }
            Effect::CloseStdin(epoch) => {
                if let Some(link) = self.link.as_mut().filter(|link| link.epoch() == epoch) {
                    link.finish();
                }
            }
            Effect::Signal { epoch, signal } => {
                if let Some(link) = self.link.as_ref().filter(|link| link.epoch() == epoch) {
                    link.signal(signal);
                }
            }
            Effect::Checkpointed(seq) => self.views.covered = [self.views.covered[1], seq],
            Effect::Exit => return true,
        }
        false
    }

    fn refuse(&mut self, effects: Vec<Effect>, machine: &Core, why: &io::Error) {
        trace::error(None, format_args!("the state could not be made durable: {why}"));
        self.tally.storage_failed();
        let replies = effects.into_iter().filter_map(|effect| match effect {
            Effect::Reply { id, .. } => Some(id),
            _ => None,
        });
        for id in replies.chain(machine.callers()) {
            self.desk.reply(id, Err(storage_failed(why)));
        }
        if let Some(link) = self.link.take() {
            link.signal(Signal::Kill);
            if let Some(pgid) = link.pgid() {
                child::wait_until_gone(pgid, KILL_PATIENCE);
            }
        }
    }

    fn refuse_input(&mut self, input: Input, durable: &Core, why: &io::Error) -> bool {
        match input {
            Input::Call { id, call: Call::Readiness } => {
                self.desk.reply(id, Err(Error::new(error::STORAGE_FAILED, "storage")));
            }
            Input::Call { id, call } => {
                let outcome = durable.read(&call).unwrap_or_else(|| Err(storage_failed(why)));
                self.desk.reply(id, outcome.map(|reply| without_child(reply, why)));
            }
            Input::Stop(_) => return true,
            Input::Start
            | Input::Gone { .. }
            | Input::Tick
            | Input::Child { .. }
            | Input::Checkpointed(_)
            | Input::TranscriptsOver(_) => {}
        }
        false
    }

    fn wake_at(&self) -> Option<Duration> {
        let views = self.views.stale.then_some(self.views.not_before);
        views.into_iter().chain(self.transcripts.wake_at()).min()
    }
}

/// The durable state may still speak of the child that was ended when nothing could be written any more.
fn without_child(mut reply: Reply, why: &io::Error) -> Reply {
    match &mut reply {
        Reply::Status(snapshot) => {
            let child = &mut snapshot.child;
            (child.pid, child.status) = (None, ChildStatus::Stopped);
            child.last_error = Some(format!("the state cannot be made durable: {why}"));
        }
        Reply::Sessions { child_pid, .. } | Reply::Session { seen: SessionSeen { child_pid, .. }, .. } => {
            *child_pid = None;
        }
        _ => {}
    }
    reply
}

fn storage_failed(why: &io::Error) -> Error {
    Error::new(error::STORAGE_FAILED, "The state could not be made durable; nothing was done.").because(why)
}

/// Ends a child that an earlier process left behind, so that two never share its home.
pub fn end_leftover(state: &State) {
    let child = state.child();
    if let (Some(pid), Some(mark)) = (child.pid, &child.process_mark)
        && child::end_leftover(pid, mark)
    {
        trace::warn(
            None,
            format_args!("app-server {pid} of a codexd that died was still there, and is ended"),
        );
    }
}

/// The queues between the loop and everybody else.
pub struct Queues {
    /// For callers, signals and documents.
    pub calls: Sender<Input>,
    /// For the child.
    pub child: Sender<Input>,
    /// The loop's ends of both.
    pub inbox: common::engine::Inbox<Input>,
}

/// Makes the queues.
pub fn queues() -> Queues {
    let ((calls, from_calls), (child, from_child)) = (bounded(CALLS), bounded(CHILD_LINES));
    Queues { calls, child, inbox: common::engine::Inbox { calls: from_calls, child: from_child } }
}
