//! Performs what the core decides: replies, what all may see, checkpoints. Runs on the main thread of the node that leads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::document::{self, Durability};
use common::engine::Shell;
use common::error::STORAGE_FAILED;
use common::log::{Log, Seq};
use common::time::{Now, Timestamp};
use common::trace::Level;
use common::{checkpoint, log, trace};
use serde_json::{Value, json};

use crate::api::Node;
use crate::config::{Config, millis};
use crate::core::{self, Birth, Call, Core, Effect, Input, Reply, still_runs};
use crate::event;
use crate::lease::Document;
use crate::results;
use crate::state::State;
use crate::worker::Workers;

/// Where callers find the loop of the node that leads.
pub(crate) type Desk = common::desk::Desk<Input, Reply>;

/// The hands of the node that leads.
pub(crate) struct World {
    pub(crate) node: Arc<Node>,
    pub(crate) birth: Birth,
    /// The state as the disk has it, as long as nothing was added to it since it was read.
    pub(crate) taken_up: Option<State>,
    /// What the last two checkpoints hold, the older one first.
    pub(crate) covered: [Seq; 2],
    /// It has been written down that this node leads.
    pub(crate) leads: bool,
    pub(crate) workers: Workers,
    pub(crate) stopping: bool,
}

impl World {
    /// The first commit is safe: from now on this node leads, and says so.
    fn take_the_lead(&mut self) {
        let Config { node_id, host, lease_ttl, .. } = &self.node.config;
        let now = Timestamp::now();
        self.node.lease.lead(Document {
            holder_id: node_id.clone(),
            holder_host: host.clone(),
            term: self.birth.term,
            pid: self.birth.pid,
            renewed_at: now,
            expires_at: Timestamp::from_millis(now.millis() + millis(*lease_ttl)),
        });
        self.node.renew();
        self.node.beat();
        self.node.board.stir();
        trace::write(Level::Info, None, format_args!("leads"), &[("term", self.birth.term.into())]);
        self.node.announce();
        if let Err(error) = identity(&self.node.config) {
            trace::warn(None, format_args!("identity.json could not be written: {error}"));
        }
    }

    fn write_checkpoint(&mut self, state: &State) {
        match checkpoint::write(&self.node.config.state_dir, state.seq(), state) {
            Ok(()) => self.covered = [self.covered[1], state.seq()],
            Err(error) => trace::warn(None, format_args!("a checkpoint could not be written: {error}")),
        }
    }
}

impl Shell<Core> for World {
    fn rebuild(&mut self, log: &Log) -> io::Result<Core> {
        let state = match self.taken_up.take() {
            Some(state) => state,
            None => replay(&self.node.config)?,
        };
        self.taken_up = Some(state.clone()); // a full disk is tried again each second: not all of it is read each time
        self.birth.next = log.next();
        self.birth.incarnation += 1;
        Ok(Core::new(state, self.birth.clone()))
    }

    fn prepare(&mut self, _: &[Effect]) -> io::Result<()> {
        Ok(()) // a kept result is written by its own thread, before its end is told
    }

    fn committed(&mut self, machine: &Core, _: Now, log: &mut Log, closed: Option<Seq>) {
        self.birth.settle();
        self.taken_up = None;
        if !std::mem::replace(&mut self.leads, true) {
            results::sweep(&self.node.config.state_dir, machine.state());
            self.take_the_lead();
        }
        if closed.is_some() || self.stopping {
            self.write_checkpoint(machine.state());
        }
        // The older of the two checkpoints must still find its lines.
        log.forget_up_to(self.covered[0]);
    }

    fn perform(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Append(_) => {}
            Effect::Publish(system) => self.node.board.post(*system),
            Effect::Reply { id, outcome } => self.node.reply(id, outcome),
            Effect::Work { ticket, work } => self.workers.work(&self.node, ticket, work),
            Effect::Kill(run) => self.workers.kill(run),
            Effect::Follow { epoch, after } => self.workers.follow(&self.node, epoch, after),
            Effect::Unfollow => self.workers.unfollow(),
            Effect::Stopping(reason) => self.birth.stopping = Some(reason),
            Effect::Forget(hash) => results::forget(&self.node.config.state_dir, &hash),
            Effect::Exit => self.stopping = true,
        }
        self.stopping
    }

    fn refuse(&mut self, effects: Vec<Effect>, machine: &Core, why: &io::Error) {
        trace::error(None, format_args!("the state could not be made durable: {why}"));
        self.node.announce(); // it serves what it can
        let replies = effects.into_iter().filter_map(|effect| match effect {
            Effect::Reply { id, .. } => Some(id),
            _ => None,
        });
        for id in replies {
            self.node.reply(id, Err(storage_failed(why)));
        }
        for id in machine.callers() {
            self.node.reply(id, Err(still_runs())); // what they wait for goes on
        }
    }

    fn refuse_input(&mut self, input: Input, durable: &Core, why: &io::Error) -> bool {
        match input {
            Input::Call { id, call: Call::Read(read) } => {
                self.node.reply(id, core::look(durable.state(), &read));
            }
            Input::Call { id, .. } => self.node.reply(id, Err(storage_failed(why))),
            Input::Stop(_) => return true,
            Input::Start | Input::Heard { .. } | Input::Renewed { .. } | Input::Gone { .. } | Input::Tick => {
            }
        }
        false
    }

    fn wake_at(&self) -> Option<Duration> {
        None
    }
}

fn storage_failed(why: &io::Error) -> Error {
    Error::new(STORAGE_FAILED, "The state could not be made durable; nothing was done.").because(why)
}

/// What the folders hold, as a node that takes the lead would take it up; nothing is written.
///
/// # Errors
/// Any error of the file system; `InvalidData` if the log is damaged, so that not all of it could be taken up.
pub(crate) fn replay(config: &Config) -> io::Result<State> {
    let state = checkpoint::read(&config.state_dir, false)?.unwrap_or_default();
    replay_on(config, state)
}

/// What the log holds behind a state.
///
/// # Errors
/// As `replay`.
pub(crate) fn replay_on(config: &Config, mut state: State) -> io::Result<State> {
    if config.logs_dir.exists() {
        let after = state.seq();
        let apply = |_, line: &str| event::parse(line).map(|record| state.apply(&record));
        let replayed = log::replay(&config.logs_dir, after, apply)?;
        if let Some(why) = replayed.damage() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the log is damaged: {why}")));
        }
    }
    Ok(state)
}

/// What the state directory is called, by a name that stays with it, and who writes to it.
fn identity(config: &Config) -> io::Result<()> {
    let path = config.state_dir.join("identity.json");
    let known: Option<Value> = document::read(&path)?;
    let daemon_id = match known.as_ref().and_then(|known| known["daemon_id"].as_str()) {
        Some(daemon_id) => daemon_id.to_owned(),
        None => format!("conductor-{}", &common::random_id()?[..16]),
    };
    let identity = json!({
        "daemon_id": daemon_id,
        "node_id": config.node_id,
        "host": config.host,
        "role": config.role.name(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    if known.as_ref() == Some(&identity) {
        Ok(())
    } else {
        document::write(&path, &identity, Durability::Power)
    }
}
