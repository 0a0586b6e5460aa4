//! What the agent waits for, and what became of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use common::log::Seq;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{ApprovalRequested, Event, Record, Resolution};

/// How many that came to their end are remembered, to tell a second answer from an unknown id.
const RESOLVED: usize = 256;

/// A request of the child that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// The number of the event that told of it.
    pub seq: Seq,
    /// When that was.
    pub requested_at: Timestamp,
    /// What it is.
    pub asked: ApprovalRequested,
}

/// One that came to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// `approval-…`.
    pub id: String,
    /// How.
    pub resolution: Resolution,
    /// What was answered, if it was.
    pub decision: Option<String>,
}

/// All that wait, and the newest that do not any more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Approvals {
    pending: BTreeMap<Seq, Arc<Approval>>,
    resolved: VecDeque<Resolved>,
}

impl Approvals {
    /// Those that wait, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = &Arc<Approval>> {
        self.pending.values()
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.pending.len()
    }

    /// One that waits.
    pub fn find(&self, id: &str) -> Option<&Arc<Approval>> {
        self.pending.values().find(|approval| approval.asked.approval_id == id)
    }

    /// One that came to its end, if that is not too long ago.
    pub fn resolved(&self, id: &str) -> Option<&Resolved> {
        self.resolved.iter().find(|resolved| resolved.id == id)
    }

    pub(super) fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::ApprovalRequested(asked) => {
                let asked = ApprovalRequested::clone(asked);
                let approval = Approval { seq: record.seq, requested_at: record.at, asked };
                self.pending.insert(record.seq, Arc::new(approval));
            }
            Event::ApprovalResolved { approval_id, resolution, decision, .. } => {
                self.pending.retain(|_, approval| approval.asked.approval_id != *approval_id);
                if self.resolved.len() == RESOLVED {
                    self.resolved.pop_front();
                }
                let (id, decision) = (approval_id.clone(), decision.clone());
                self.resolved.push_back(Resolved { id, resolution: *resolution, decision });
            }
            _ => {}
        }
    }
}
