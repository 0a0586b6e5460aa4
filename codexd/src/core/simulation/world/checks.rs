//! What callers are told, and what holds after every step.

use std::collections::BTreeSet;

use super::World;
use crate::core::simulation::names;
use crate::core::{CallId, Effect, Reply};
use common::Error;

impl World {
    pub(super) fn reply(&mut self, id: CallId, outcome: Result<Reply, Error>) {
        let Some(asked) = self.answered(id) else { return };
        let hash = asked.key.as_ref().map(|key| key.hash.as_str());
        self.count(names::reply(asked.kind, &outcome));
        match (outcome, asked.kind) {
            (Ok(Reply::Turn { turn_id, seq, session }), _) => {
                self.model.turn_told(&turn_id, hash);
                let line = &self.disk[seq as usize - 1];
                let told =
                    ["turn.accepted", "turn.steered", "turn.started"].iter().any(|kind| line.contains(kind));
                assert!(told && line.contains(&turn_id) && line.contains(&session.session.id), "{line}");
            }
            (Ok(Reply::Session { seen, .. }), "interrupt") => self.model.interrupt_told(&seen.session.id),
            (Ok(Reply::Session { seen, .. }), "close") => self.model.close_told(&seen.session.id),
            (Ok(Reply::Session { seen, .. }), _) => self.model.session_told(&seen.session.id, hash),
            (Ok(Reply::Answered { approval, .. }), _) => self.model.answer_told(&approval.asked.approval_id),
            (Ok(Reply::TurnSeen(seen)), "wait") => {
                let early = self.mono < asked.until && self.stopping.is_none();
                assert!(!early || !self.model.runs(&asked.of) || seen.is_none(), "{} runs", asked.of);
            }
            (Ok(_), _) => {}
            (Err(error), kind) => {
                let allowed: &[&str] = match kind {
                    "work" => &[
                        "conflict",
                        "not_found",
                        "app_server_error",
                        "app_server_timeout",
                        "app_server_unavailable",
                        "overloaded",
                        "too_many_requests",
                    ],
                    "answer" => &["conflict", "not_found", "invalid_request"],
                    "read" => &["not_found", "app_server_unavailable"],
                    _ => &["conflict", "not_found"],
                };
                assert!(allowed.contains(&error.code.name.as_ref()), "{kind}: {error:?}");
            }
        }
    }

    /// What holds after every step.
    pub(super) fn check(&mut self) {
        let (core, mono) = (&self.core, self.mono);
        for (id, asked) in &self.waiting {
            let replied = || self.out.iter().any(|e| matches!(e, Effect::Reply { id: to, .. } if to == id));
            let knows = || core.callers().any(|caller| caller == *id);
            assert!(asked.until > mono || replied(), "call {id} ({}) is answered in time", asked.kind);
            assert!(knows() || replied(), "call {id} ({}) is not forgotten", asked.kind);
        }
        let callers = core.callers().count();
        let distinct: BTreeSet<_> = core.callers().collect();
        assert_eq!(callers, distinct.len(), "a caller waits in one place");
        for approval in core.state().approvals().pending() {
            assert_eq!(Some(approval.asked.epoch), core.live.child.epoch(), "no approval of a dead child");
        }
        assert!(core.state().session_count() <= self.max_sessions, "sessions are bounded");
        assert!(core.live.keyed.keys().all(|id| distinct.contains(id)), "a key is held by who waits");
        let stages = core.state().sessions().filter_map(|session| session.turn.as_ref()).map(names::stage);
        let mut here: BTreeSet<_> = stages.collect();
        here.insert(names::child(&core.live.child));
        here.into_iter().for_each(|what| self.count(what));
    }
}
