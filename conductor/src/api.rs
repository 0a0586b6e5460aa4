//! The node's own facts: probes, the runtime snapshot, health and version.
//!
//! Everything here is answered from memory; no call goes upstream.

use std::sync::{Arc, Mutex, Once, OnceLock, Weak};

use common::config::LocalUrl;
use common::desk::CallId;
use common::http::{Answer, Request, Stats};
use common::log::Feed;
use common::time::Timestamp;
use common::trace::Level;
use common::{Error, trace};
use serde_json::{Value, json};

use crate::config::{Config, firefox_ws_url, millis};
use crate::core::{Input, Reply};
use crate::firefox::Bridge;
use crate::host::Host;
use crate::lease::{Lease, LeaseState, lock};
use crate::routes::ROUTES;
use crate::shell::{self, Desk};
use crate::state::State;
use crate::system::Board;
use crate::upstream::{Codexd, Deadlines};

/// What every handler shares.
pub(crate) struct Node {
    pub(crate) config: Config,
    /// Where it really listens: the configured URL with the port that the system chose.
    pub(crate) local_api: LocalUrl,
    pub(crate) codexd: Codexd,
    pub(crate) host: Host,
    pub(crate) stats: Arc<Stats>,
    pub(crate) started_at: Timestamp,
    /// Who leads.
    pub(crate) lease: Lease,
    /// The system state, as far as it may be seen.
    pub(crate) board: Board,
    /// The way to the core, once this node leads.
    pub(crate) desk: OnceLock<Desk>,
    /// The log, once this node writes it.
    pub(crate) feed: OnceLock<Arc<Feed>>,
    pub(crate) bridge: Arc<Bridge>,
    /// What a node that stands by has read of the leader's log.
    followed: Mutex<State>,
    announced: Once,
    /// The document of the table, for callers of the local base and of the public one.
    pub(crate) openapi: [OnceLock<String>; 2],
    /// Held by whoever makes one of the long descriptions: a crowd that asks for them holds few at once in memory.
    pub(crate) describing: Mutex<()>,
    /// Held while this node's own document is written.
    pub(crate) beating: Mutex<()>,
    /// For those who serve a client when its request is gone.
    pub(crate) me: Weak<Node>,
}

impl Node {
    pub(crate) fn new(config: Config, local_api: LocalUrl, deadlines: Deadlines) -> Arc<Node> {
        Arc::new_cyclic(|me| Node {
            lease: Lease::new(&config),
            codexd: Codexd::new(config.codexd.clone(), deadlines),
            host: Host::new(&config),
            stats: Stats::of(ROUTES),
            config,
            local_api,
            started_at: Timestamp::now(),
            board: Board::default(),
            desk: OnceLock::new(),
            feed: OnceLock::new(),
            bridge: Arc::default(),
            followed: Mutex::default(),
            announced: Once::new(),
            openapi: Default::default(),
            describing: Mutex::default(),
            beating: Mutex::default(),
            me: me.clone(),
        })
    }

    /// The one place that says who leads.
    pub(crate) fn lease_state(&self) -> LeaseState {
        self.lease.state()
    }

    /// Says once where this node listens: when it is known how it stands.
    pub(crate) fn announce(&self) {
        self.announced.call_once(|| {
            let url = [("url", self.local_api.to_string().into())];
            trace::write(Level::Info, None, format_args!("listening"), &url);
        });
    }

    /// Renews the lease; whoever watches hears when that changes how this node stands.
    pub(crate) fn renew(&self) {
        let before = self.lease.state();
        if let Some(error) = self.lease.renew() {
            trace::error(None, format_args!("the lease cannot be renewed, this node is degraded: {error}"));
        }
        let state = self.lease.state();
        if state != before {
            self.board.stir();
        }
        // Each time: one that was not heard is made up for by the next.
        self.tell(Input::Renewed { degraded: state == LeaseState::Degraded });
    }

    /// Opens the way to the core: from now on this node follows nobody.
    pub(crate) fn open_desk(&self, desk: Desk, feed: &Arc<Feed>) {
        let mut followed = lock(&self.followed);
        let _ = (self.feed.set(feed.clone()), self.desk.set(desk));
        *followed = State::default();
    }

    /// A node that stands by reads what the leader wrote. What cannot be read now is read later.
    pub(crate) fn follow(&self) {
        let mut followed = lock(&self.followed);
        if self.desk.get().is_some() {
            return;
        }
        let read = match followed.seq() {
            0 => shell::replay(&self.config),
            _ => shell::replay_on(&self.config, followed.clone()),
        };
        match read {
            Ok(state) => {
                self.board.post(state.shown());
                *followed = state;
            }
            Err(error) => trace::debug(None, format_args!("the leader's log cannot be read: {error}")),
        }
    }

    /// Looks at what the leader wrote, as far as it was read; `None` on a node that leads.
    pub(crate) fn with_followed<T>(&self, look: impl FnOnce(&State) -> T) -> Option<T> {
        let followed = lock(&self.followed);
        self.desk.get().is_none().then(|| look(&followed))
    }

    /// Answers a call of the core.
    pub(crate) fn reply(&self, id: CallId, outcome: Result<Reply, Error>) {
        if let Some(desk) = self.desk.get() {
            desk.reply(id, outcome);
        }
    }

    /// Ends what has no end of its own that a stop could wait for.
    pub(crate) fn end_streams(&self) {
        self.codexd.end_streams();
        self.host.stop();
        self.bridge.close();
        self.board.stir();
    }

    /// The runtime snapshot, in camelCase.
    pub(crate) fn snapshot(&self) -> Value {
        let config = &self.config;
        let lease_state = self.lease_state();
        json!({
            "identity": config.identity(),
            "daemon": {
                "nodeId": config.node_id,
                "host": config.host,
                "role": config.role.name(),
                "leaseState": lease_state.name(),
                "schedulerEnabled": lease_state == LeaseState::Leader, // it may start runs; those it has are counted in the system state
                "priority": config.priority,
                "preferred": config.preferred,
                "heartbeatIntervalMs": millis(config.heartbeat_interval),
                "leaseRenewIntervalMs": millis(config.lease_renew_interval),
                "leaseTtlSec": config.lease_ttl.as_secs(),
                "renewFailureThreshold": config.renew_failure_threshold,
            },
            "controlApi": {
                "baseUrl": config.control_api_base,
                "localApiBase": self.local_api.to_string(),
                "firefoxWsUrl": firefox_ws_url(&self.local_api),
                "hasSharedToken": config.token.is_some(),
                "usesPlaceholderToken": config.uses_placeholder_token(),
            },
            "codexd": { "localApiBase": config.codexd.as_ref().map(LocalUrl::to_string) },
            "runtime": {
                "pid": std::process::id(),
                "started": true,
                "startedAt": self.started_at,
                "version": env!("CARGO_PKG_VERSION"),
            },
            "paths": {
                "stateDir": config.state_dir,
                "logsDir": config.logs_dir,
                "runsDir": config.runs_dir,
            },
            "warnings": config.warnings(),
        })
    }
}

/// `GET /healthz`.
pub(crate) fn healthz(_: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(line(200, "ok"))
}

/// `GET /readyz`.
pub(crate) fn readyz(node: &Node, _: &Request) -> Result<Answer, Error> {
    let ready = node.lease.has_started() && node.lease_state() != LeaseState::Degraded;
    Ok(if ready { line(200, "ready") } else { line(503, "not_ready") })
}

/// `GET /rolez`.
pub(crate) fn rolez(node: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(line(200, if node.lease_state() == LeaseState::Leader { "leader" } else { "standby" }))
}

/// `GET /v1/runtime`.
pub(crate) fn runtime(node: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(Answer::Json { status: 200, data: node.snapshot() })
}

/// `GET /health`.
pub(crate) fn health(node: &Node, _: &Request) -> Result<Answer, Error> {
    let data = json!({ "status": "ok", "identity": node.config.identity(), "lease_state": node.lease_state().name() });
    Ok(Answer::Json { status: 200, data })
}

/// `GET /version`.
pub(crate) fn version(_: &Node, _: &Request) -> Result<Answer, Error> {
    let data = json!({
        "name": "baa-conductor-daemon",
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
    });
    Ok(Answer::Json { status: 200, data })
}

fn line(status: u16, word: &str) -> Answer {
    Answer::Text { status, content_type: "text/plain; charset=utf-8", body: format!("{word}\n") }
}
