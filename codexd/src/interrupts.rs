//! The step's part for turns that are to end: on a caller's word, at their deadline, with their session.

use std::time::Duration;

use common::Error;
use common::error;
use common::log::Seq;
use common::time::Now;
use serde_json::json;

use crate::app_server::protocol::{self, RpcError};
use crate::core::{Caller, Core, Effect, Reply};
use crate::event::{ApprovalRequested, Event};
use crate::requests::Ask;
use crate::state::{OpenItem, Stage as TurnStage, Turn};
use crate::supervise::{Child, Stage};

/// How long the child may take to answer `turn/interrupt`, and how long after it the turn may take to end.
pub const INTERRUPT_DEADLINE: Duration = Duration::from_secs(2);
/// How soon after a refusal it is asked again, by the times that it was: a turn that was just accepted is deaf for some
/// milliseconds.
pub const INTERRUPT_PAUSE: Duration = Duration::from_millis(100);
/// How many times it is asked before the child's history is.
pub const INTERRUPT_TRIES: u32 = 5;
/// How many times before the child counts as sick.
pub const INTERRUPT_TRIES_MAX: u32 = 15;

/// A turn that is to end.
pub(crate) struct Interrupt {
    tries: u32,
    /// How many times the child has said that it runs no such turn.
    unknown: u32,
    /// When the child is asked next, if the turn runs then; none while it is.
    pub(crate) try_at: Option<Duration>,
}

impl Core {
    /// `POST …/interrupt`
    pub(crate) fn interrupt_call(&mut self, now: Now, caller: Caller, id: &str, out: &mut Vec<Effect>) {
        let outcome = self.find(id).and_then(|session| {
            if session.turn.is_none() {
                let message = format!("Session {id} has no turn that runs.");
                return Err(Error::new(error::CONFLICT, message).details(json!({ "currentTurnId": null })));
            }
            self.request_interrupt(now, session.seq, "a caller asked for it", out);
            self.find(id).map(|session| self.session_reply(&session))
        });
        self.reply(caller.id, outcome, out);
    }

    /// A session's turn is to end, as soon as the child can hear it.
    pub(crate) fn request_interrupt(&mut self, now: Now, session: Seq, reason: &str, out: &mut Vec<Effect>) {
        let Some(session) = self.by_seq(session) else { return };
        let Some(turn) = &session.turn else { return };
        if turn.interrupt.is_none() {
            let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
            let (turn_id, reason) = (turn.id().map(str::to_owned), reason.to_owned());
            let wanted = Event::TurnInterruptRequested { session_id, thread_id, turn_id, reason };
            self.emit(now, wanted, out);
            let of_it = |asked: &ApprovalRequested| asked.session_id == session.id;
            self.lose_approvals(now, of_it, "its turn is interrupted", out);
        }
        self.hold_interrupt(now, session.seq);
        self.try_interrupt(now, session.seq, out);
    }

    /// Sees to it that a turn that is to end does: at once, or when the child can hear it.
    pub(crate) fn hold_interrupt(&mut self, now: Now, session: Seq) {
        let Some(turn) = self.by_seq(session).and_then(|session| session.turn.clone()) else { return };
        if turn.interrupt.is_none() {
            return;
        }
        // Even of a turn that never says that it has begun.
        let try_at = turn.id().map(|_| now.mono + INTERRUPT_DEADLINE);
        let held = self.live.interrupts.entry(session).or_insert(Interrupt { tries: 0, unknown: 0, try_at });
        held.try_at = held.try_at.or(try_at);
    }

    /// Asks the child to end a turn that has begun.
    pub(crate) fn try_interrupt(&mut self, now: Now, session: Seq, out: &mut Vec<Effect>) {
        let begun = |turn: &Turn| matches!(turn.stage, TurnStage::Running { .. });
        let Some(session) = self.by_seq(session) else { return };
        if session.turn.as_ref().is_some_and(begun) {
            self.send_interrupt(now, session.seq, out);
        }
    }

    fn send_interrupt(&mut self, now: Now, session: Seq, out: &mut Vec<Effect>) {
        let (Child::Up { epoch, .. }, Some(session)) = (&self.live.child, self.by_seq(session)) else {
            return;
        };
        let epoch = *epoch;
        let Some(turn_id) = session.turn.as_ref().and_then(|turn| turn.id()) else { return };
        let Some(interrupt) = self.live.interrupts.get_mut(&session.seq) else { return };
        if interrupt.try_at.is_none() {
            return; // it is being asked
        }
        interrupt.try_at = None;
        interrupt.tries += 1;
        let tries = interrupt.tries;
        if tries >= INTERRUPT_TRIES_MAX && interrupt.unknown + 1 == tries {
            // Whatever its history says: some versions call a turn running that was killed.
            return self.interrupt_turn(now, session.seq, "app-server does not run it any more", out);
        }
        if tries >= INTERRUPT_TRIES_MAX {
            let why = format!("it does not end turn {turn_id}, which is interrupted");
            return self.end_unfit(now, epoch, Stage::Eof, why, out);
        }
        if tries % INTERRUPT_TRIES == 0 {
            self.doubt_stubborn(now, session.seq);
        }
        let request = protocol::turn_interrupt(&session, turn_id);
        let give_up_at = now.mono + INTERRUPT_DEADLINE;
        self.ask_until(now, give_up_at, epoch, request, Ask::Interrupt { session: session.seq }, out);
    }

    /// The child took the interrupt, or did not, or did not answer; the end of the turn is what counts.
    pub(crate) fn interrupt_answered(
        &mut self,
        now: Now,
        session: Seq,
        result: Option<Result<(), RpcError>>,
    ) {
        // One that was not asked for yet is of another turn than the one that this answers for.
        let asked = self.live.interrupts.get_mut(&session).filter(|interrupt| interrupt.tries > 0);
        if let Some(interrupt) = asked {
            let unknown = result.as_ref().is_some_and(|r| r.as_ref().is_err_and(RpcError::is_other_turn));
            interrupt.unknown += u32::from(unknown);
            let taken = matches!(result, Some(Ok(())));
            let pause = if taken { INTERRUPT_DEADLINE } else { INTERRUPT_PAUSE * interrupt.tries };
            interrupt.try_at = Some(now.mono + pause);
        }
    }

    /// Turns that were to end and have not.
    pub(crate) fn interrupts_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        let due = |interrupt: &Interrupt| interrupt.try_at.is_some_and(|at| at <= now.mono);
        let due: Vec<_> = self.live.interrupts.iter().filter(|(_, i)| due(i)).map(|(&seq, _)| seq).collect();
        let up = matches!(self.live.child, Child::Up { .. });
        for session in due.into_iter().filter(|_| up) {
            match (self.is_settling(session), self.live.interrupts.get_mut(&session)) {
                (true, Some(interrupt)) => interrupt.try_at = Some(now.mono + INTERRUPT_DEADLINE),
                _ => self.send_interrupt(now, session, out),
            }
        }
    }

    /// Turns that have run for as long as they may.
    pub(crate) fn turns_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        let due = self.live.turn_deadlines.iter().filter(|&(_, &at)| at <= now.mono);
        for session in due.map(|(&session, _)| session).collect::<Vec<_>>() {
            self.live.turn_deadlines.remove(&session);
            let turn = self.by_seq(session).and_then(|session| session.turn.clone());
            let timeout_ms = turn.and_then(|turn| turn.timeout_ms).unwrap_or_default();
            let reason = format!("its deadline of {timeout_ms} ms has passed");
            self.request_interrupt(now, session, &reason, out);
        }
    }

    /// `POST …/close`
    pub(crate) fn close_call(&mut self, now: Now, caller: Caller, id: &str, out: &mut Vec<Effect>) {
        let outcome = self.find(id).and_then(|session| {
            if session.open {
                let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
                let reason = "a caller asked for it".to_owned();
                self.emit(now, Event::SessionClosed { session_id, thread_id, reason }, out);
                let runs = session.turn.as_ref().and_then(|turn| turn.id());
                let idle = |item: &OpenItem| item.turn_id.as_deref() != runs;
                self.close_items(now, session.seq, idle, "its session was closed", out);
                self.request_interrupt(now, session.seq, "its session was closed", out);
                self.live.stirred = true;
            }
            self.find(id).map(|session| Reply::Session { seen: self.seen(&session), pending: Vec::new() })
        });
        self.reply(caller.id, outcome, out);
    }
}
