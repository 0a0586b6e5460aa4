//! Which moments the kills have met, by the log's own records.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What the log says of the kills so far.
#[derive(Default)]
pub(super) struct Ledger {
    ready: bool,
    stopping: bool,
    requested: BTreeSet<String>,
    running: BTreeSet<String>,
    /// What the death of the child has interrupted: a turn without an id was not accepted yet.
    interrupted: (u64, u64),
    pub(super) child_pid: Option<u32>,
    /// How many kills met each moment.
    pub(super) met: BTreeMap<&'static str, u64>,
}

impl Ledger {
    pub(super) fn take(&mut self, line: &str) {
        let event: Value = serde_json::from_str(line).unwrap();
        let detail = &event["detail"];
        let text = |key: &str| detail[key].as_str().unwrap_or_default().to_owned();
        let (session, kind) = (text("sessionId"), event["type"].as_str().unwrap());
        match kind {
            "daemon.started" if event["seq"] != 2 && !self.stopping => {
                self.meets((self.requested.len() as u64, self.running.len() as u64));
            }
            "child.exited" if self.child_pid.is_some() && text("reason").starts_with("signal 9") => {
                self.meets(self.interrupted);
            }
            "turn.requested" => drop(self.requested.insert(session.clone())),
            "turn.accepted" => {
                self.requested.remove(&session);
                self.running.insert(session.clone());
            }
            "turn.refused" => drop(self.requested.remove(&session)),
            "turn.interrupted" | "turn.settled" | "app-server.turn.completed" => {
                if kind == "turn.interrupted" && text("reason").starts_with("app-server ended") {
                    let accepted = detail["turnId"].is_string();
                    self.interrupted.0 += u64::from(!accepted);
                    self.interrupted.1 += u64::from(accepted);
                }
                self.requested.remove(&session);
                self.running.remove(&session);
            }
            _ => {}
        }
        match kind {
            "child.spawned" => self.child_pid = detail["pid"].as_u64().map(|pid| pid as u32),
            "child.ready" => self.ready = true,
            "daemon.stopping" => self.stopping = true,
            "daemon.started" | "child.exited" => {
                (self.ready, self.child_pid, self.interrupted) = (false, None, (0, 0));
            }
            _ => {}
        }
    }

    /// A kill has met so many turns that were not accepted yet, and so many that ran: perhaps both.
    fn meets(&mut self, (requested, running): (u64, u64)) {
        let moments = [
            (RECOVERY, !self.ready),
            (REQUEST, self.ready && requested > 0),
            (STREAM, self.ready && running > 0),
        ];
        for (moment, _) in moments.into_iter().filter(|(_, met)| *met) {
            *self.met.entry(moment).or_default() += 1;
        }
    }
}

pub(super) const RECOVERY: &str = "in recovery";
pub(super) const REQUEST: &str = "between request and acceptance";
pub(super) const STREAM: &str = "in mid-stream";
