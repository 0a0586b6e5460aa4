//! A conductor from its listener to its last document: it serves at once, and leads as soon as nobody else does.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::config::LocalUrl;
use common::http::{Limits, Running, Server, Style};
use common::log::{Log, Opened};
use common::time::Clock;
use common::{checkpoint, desk, document, engine, trace};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::access;
use crate::api::Node;
use crate::config::{Config, Role};
use crate::core::{Birth, Input};
use crate::event;
use crate::lease::Locks;
use crate::routes::ROUTES;
use crate::shell::{Desk, World};
use crate::state::State;
use crate::upstream::Deadlines;
use crate::worker::Workers;

/// How long calls in flight may go on after a signal: below launchd's patience, above any call that does not wait.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long another conductor that has just ended may keep the folders.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// A conductor that serves and does not lead yet.
pub(crate) struct Daemon {
    pub(crate) node: Arc<Node>,
    pub(crate) running: Running,
    pub(crate) calls: Sender<Input>,
    inbox: Receiver<Input>,
    /// Ends the thread that renews.
    renewing: mpsc::Sender<()>,
}

impl Daemon {
    /// Serves at `listener`.
    ///
    /// # Errors
    /// A sentence: what could not be had.
    pub(crate) fn start(
        config: Config,
        listener: TcpListener,
        deadlines: Deadlines,
    ) -> Result<Daemon, String> {
        for folder in [&config.state_dir, &config.logs_dir, &config.state_dir.join("controllers")] {
            document::make_folder(folder).map_err(said(&format!("{} cannot be made", folder.display())))?;
        }
        let port = listener.local_addr().map_err(said("the listener has no address"))?.port();
        let wanted = config.local_api.clone().ok_or("there is no address to listen at")?;
        let gate = access::gate(&config);
        let node = Node::new(config, LocalUrl { port, ..wanted }, deadlines);
        node.host.leftovers.end();
        let server = Server {
            routes: ROUTES,
            gate,
            state: node.clone(),
            style: Style::Snake,
            unknown_route: |method, path| format!("Unknown conductor route {method} {path}."),
            authorize: access::authorize,
            limits: Limits::default(),
            stats: node.stats.clone(),
        };
        let running = server.start(listener).map_err(said("cannot serve"))?;
        let renewing = renew(node.clone()).map_err(said("no thread for the lease"))?;
        let (calls, inbox) = bounded(desk::CALLS);
        Ok(Daemon { node, running, calls, inbox, renewing })
    }

    /// Waits for the lead, leads, and ends when it is asked to.
    ///
    /// # Errors
    /// A sentence: what the disk does not let it do.
    pub(crate) fn run(self) -> Result<(), String> {
        let Daemon { node, running, calls, inbox, renewing } = self;
        let ended = match wait_for_the_lead(&node, &inbox) {
            Ok(Some(locks)) => {
                let ended = lead(&node, calls, inbox);
                // Only then is it somebody else's to lead, who need not wait for our last callers.
                node.lease.release();
                drop(locks);
                ended
            }
            Ok(None) => Ok(()),
            Err(error) => Err(format!("the lease cannot be locked: {error}")),
        };
        drop(renewing);
        node.end_streams();
        running.stop(STOP_GRACE);
        ended
    }
}

/// The locks, once they are held; `None` if the process is asked to end before.
fn wait_for_the_lead(node: &Node, inbox: &Receiver<Input>) -> io::Result<Option<Locks>> {
    let Config { role, preferred, lease_renew_interval, .. } = node.config;
    let locks = node.lease.open()?;
    // Where both are started at once, a primary comes first.
    let hold_back = role == Role::Standby && !preferred;
    if !hold_back && locks.try_take()? {
        return Ok(Some(locks));
    }
    node.lease.wait();
    trace::info(None, format_args!("stands by"));
    node.announce();
    let (locked, taken) = bounded(1);
    thread::Builder::new().name("lease-wait".into()).spawn(move || {
        if hold_back {
            thread::sleep(lease_renew_interval);
        }
        let _ = locked.send(locks.take().map(|()| locks)); // nobody listens once the process ends
    })?;
    node.follow();
    crossbeam_channel::select! {
        recv(taken) -> locks => locks.map_err(io::Error::other)?.map(Some),
        recv(inbox) -> _ => Ok(None), // there is no way to the core yet: it is a stop
    }
}

/// Leads, while the caller holds the locks, until it is asked to end.
fn lead(node: &Arc<Node>, calls: Sender<Input>, inbox: Receiver<Input>) -> Result<(), String> {
    let config = &node.config;
    // The logs may be those of another state.
    let _logs = lock_folder(&config.logs_dir)?;
    let mut state: State =
        checkpoint::read(&config.state_dir, true).map_err(said("the checkpoint"))?.unwrap_or_default();
    let (after, covered) = (state.seq(), checkpoint::covered(&config.state_dir));
    let apply = |_, line: &str| event::parse(line).map(|record| state.apply(&record));
    let opened = Log::open(&config.logs_dir, config.log, after, apply);
    let Opened { mut log, fresh } = opened.map_err(said("the log cannot be opened"))?;
    let last_term = node.lease.last_term();
    let damaged = fresh && (log.next() > 1 || last_term > 0);
    if damaged {
        trace::error(None, format_args!("the log was damaged or removed: this node begins paused"));
    }
    let new_log_id = (fresh || state.log_id().is_empty()).then(common::random_id).transpose();
    let birth = Birth {
        new_log_id: new_log_id.map_err(said("no random bytes"))?,
        cut_off: true,
        damaged,
        next: log.next(),
        holder_id: config.node_id.clone(),
        holder_host: config.host.clone(),
        term: state.term().max(last_term) + 1,
        pid: std::process::id(),
        max_active_runs: config.max_active_runs,
        incarnation: 0,
        stopping: None,
    };
    node.host.leftovers.end(); // those of the one that led
    node.open_desk(Desk::new("conductor", calls), log.feed());
    let mut world = World {
        node: node.clone(),
        birth,
        taken_up: Some(state),
        covered: [covered, after],
        leads: false,
        workers: Workers::default(),
        stopping: false,
    };
    let inbox = engine::Inbox { calls: inbox, child: crossbeam_channel::never() };
    engine::run(Clock::start(), &inbox, &mut log, &mut world)
        .map_err(said("the log failed, and what the disk holds is unknown"))
}

/// A sentence of what could not be had, and why.
fn said(what: &str) -> impl Fn(io::Error) -> String {
    let what = what.to_owned();
    move |error| format!("{what}: {error}")
}

/// Locks a folder for as long as the file lives.
fn lock_folder(folder: &std::path::Path) -> Result<File, String> {
    document::lock_folder(folder, LOCK_PATIENCE).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => format!("another conductor runs on {}", folder.display()),
        _ => format!("{} cannot be locked: {error}", folder.display()),
    })
}

/// The thread that tells of this node and renews its lease, until what it gives back is dropped.
fn renew(node: Arc<Node>) -> io::Result<mpsc::Sender<()>> {
    let (end, ended) = mpsc::channel::<()>();
    let (beat_every, renew_every) = (node.config.heartbeat_interval, node.config.lease_renew_interval);
    thread::Builder::new().name("lease".into()).stack_size(256 * 1024).spawn(move || {
        let (mut beat_at, mut renew_at) = (Instant::now(), Instant::now() + renew_every);
        loop {
            let now = Instant::now();
            if now >= renew_at {
                renew_at = now + renew_every;
                node.renew();
            }
            if now >= beat_at {
                beat_at = now + beat_every;
                node.beat();
                // One that is about to lead reads all of it anyway.
                if node.lease.has_started() {
                    node.follow();
                }
            }
            let wait = beat_at.min(renew_at).saturating_duration_since(Instant::now());
            if ended.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    })?;
    Ok(end)
}
