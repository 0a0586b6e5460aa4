//! The nodes that could lead: each tells of itself in a document of its own, and any of them shows all.

use common::document::{self, Durability};
use common::http::{Answer, Request};
use common::time::Timestamp;
use common::wire::{Field, Record};
use common::{Error, trace};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

use crate::api::Node;
use crate::lease::{self, lock};

/// Nodes of one list that does not say how many it wants.
const PAGE: usize = 20;
/// Documents that are read for one list: far more than there are machines.
const MAX_DOCUMENTS: usize = 1000;

/// Query of the list.
pub(crate) const QUERY: &[Field] = common::fields![
    optional "limit": integer(1, 100), "How many at most; 20 by default.";
];

static CONTROLLER: Record = Record {
    name: "Controller",
    fields: common::fields![
        required "node_id": string, "The node.";
        required "host": string, "Its machine.";
        required "role": one_of("primary", "standby"), "The part it is meant to play.";
        required "priority": integer(0, i64::MAX), "Its rank.";
        required "preferred": boolean, "Whether it should lead rather than another of the same priority.";
        required "lease_state": one_of("leader", "standby", "degraded"), "How it stood at its last heartbeat.";
        required "local_api_base": string, "Where it listens.";
        required "version": string, "Of its program.";
        required "pid": integer(0, i64::MAX), "Of its process.";
        required "started_at": string, "RFC 3339.";
        required "heartbeat_at": string, "RFC 3339.";
        required "age_ms": integer(0, i64::MAX), "Since then.";
    ],
};

/// What the list answers.
pub(crate) const ANSWER: &[Field] = common::fields![
    required "count": integer(0, i64::MAX), "How many follow.";
    required "controllers": records(&CONTROLLER), "The newest heartbeat first.";
];

/// What a node tells of itself at each heartbeat.
#[derive(Serialize, Deserialize)]
struct Controller {
    node_id: String,
    host: String,
    role: String,
    priority: u64,
    preferred: bool,
    lease_state: String,
    local_api_base: String,
    version: String,
    pid: u32,
    started_at: Timestamp,
    heartbeat_at: Timestamp,
}

impl Node {
    /// Tells of this node; what cannot be written now is at the next heartbeat.
    pub(crate) fn beat(&self) {
        let _beating = lock(&self.beating);
        let config = &self.config;
        let controller = Controller {
            node_id: config.node_id.clone(),
            host: config.host.clone(),
            role: config.role.name().to_string(),
            priority: config.priority,
            preferred: config.preferred,
            lease_state: self.lease.state().name().to_string(),
            local_api_base: self.local_api.to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            started_at: self.started_at,
            heartbeat_at: Timestamp::now(),
        };
        let path = self.controllers().join(format!("{}.json", config.node_id));
        if let Err(error) = document::write(&path, &controller, Durability::Process) {
            trace::debug(None, format_args!("a heartbeat could not be written: {error}"));
        }
    }

    /// Where the documents are.
    pub(crate) fn controllers(&self) -> PathBuf {
        self.config.state_dir.join("controllers")
    }
}

/// `GET /v1/controllers`.
pub(crate) fn list(node: &Node, request: &Request) -> Result<Answer, Error> {
    let limit = request.query_value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE);
    let entries = fs::read_dir(node.controllers()).into_iter().flatten().flatten().take(MAX_DOCUMENTS);
    let documents =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "json"));
    let mut found: Vec<Controller> = documents.filter_map(|path| lease::look(&path)).collect();
    found.sort_by(|a, b| (a.heartbeat_at, &b.node_id).cmp(&(b.heartbeat_at, &a.node_id)).reverse());
    let shown: Vec<Value> = found.iter().take(limit).map(view).collect();
    Ok(Answer::Json { status: 200, data: json!({ "count": shown.len(), "controllers": shown }) })
}

fn view(controller: &Controller) -> Value {
    let age = Timestamp::now().millis().saturating_sub(controller.heartbeat_at.millis());
    let mut view = serde_json::to_value(controller).unwrap_or_default();
    view["age_ms"] = json!(age);
    view
}
