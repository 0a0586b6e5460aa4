//! The node's own facts: probes, the runtime snapshot, health and version.
//!
//! Everything here is answered from memory; no call goes upstream.

use std::sync::Arc;

use common::Error;
use common::config::LocalUrl;
use common::http::{Answer, Request, Stats};
use common::time::Timestamp;
use serde_json::{Value, json};

use crate::config::{Config, Role, firefox_ws_url, millis};
use crate::upstream::Codexd;

/// What every handler shares.
pub(crate) struct Node {
    pub(crate) config: Config,
    /// Where it really listens: the configured URL with the port that the system chose.
    pub(crate) local_api: LocalUrl,
    pub(crate) codexd: Codexd,
    pub(crate) stats: Arc<Stats>,
    pub(crate) started_at: Timestamp,
}

/// Whether this node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseState {
    Leader,
    Standby,
    /// It leads, and cannot say so: its lease could not be renewed.
    Degraded,
}

impl LeaseState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LeaseState::Leader => "leader",
            LeaseState::Standby => "standby",
            LeaseState::Degraded => "degraded",
        }
    }
}

impl Node {
    /// The one place that says who leads: the role, as long as each node stands alone.
    pub(crate) fn lease_state(&self) -> LeaseState {
        match self.config.role {
            Role::Primary => LeaseState::Leader,
            Role::Standby => LeaseState::Standby,
        }
    }

    /// The system state: the mode, who set it, and the lease.
    pub(crate) fn system(&self) -> Value {
        json!({
            "mode": "running",
            "holder_id": self.config.node_id,
            "holder_host": self.config.host,
            "lease_state": self.lease_state().name(),
            "lease_expires_at": null,
            "term": 1,
            "requested_by": null,
            "reason": null,
            "source": null,
            "updated_at": null,
            "queued_tasks": 0,
            "active_runs": 0,
            "drained": false,
        })
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
                "schedulerEnabled": false, // there is none yet
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
    Ok(line("ok"))
}

/// `GET /readyz`.
pub(crate) fn readyz(_: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(line("ready"))
}

/// `GET /rolez`.
pub(crate) fn rolez(node: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(line(node.lease_state().name()))
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

fn line(word: &str) -> Answer {
    Answer::Text { status: 200, content_type: "text/plain; charset=utf-8", body: format!("{word}\n") }
}
