//! The step's part for what the child asks: kept, shown, answered once, declined at its deadline, lost with its turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::error;
use common::log::Seq;
use common::time::{Now, Timestamp};
use common::wire::invalid;
use serde_json::{Map, Value, json};

use crate::app_server::protocol;
use crate::core::{Answer, Caller, Core, Effect, Epoch, Given, Reply};
use crate::event::{ApprovalKind, ApprovalRequested, Event, Notice, Resolution};
use crate::state::{Approval, OpenItem, Session};

/// Approvals that wait at once: each is up to 32 KiB, in memory and in every checkpoint.
pub const MAX_APPROVALS: usize = 256;
/// File changes that are remembered for the approval that may follow; the child asks at once, or not at all.
const MAX_CHANGES: usize = 64;

/// What of approvals dies with the process.
#[derive(Default)]
pub(crate) struct ApprovalsLive {
    /// When each is declined.
    deadlines: BTreeMap<Seq, Duration>,
    /// What file changes consist of, by thread and item: the request does not say it.
    changes: BTreeMap<(String, String), Value>,
}

impl ApprovalsLive {
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.deadlines.values().min().copied()
    }

    pub(crate) fn clear(&mut self) {
        *self = ApprovalsLive::default();
    }
}

/// How one came to its end.
struct End {
    resolution: Resolution,
    decision: Option<String>,
    answers: Option<Value>,
    execpolicy_amendment: Option<Value>,
    reason: Option<String>,
}

impl End {
    fn new(resolution: Resolution, reason: Option<&str>) -> End {
        let reason = reason.map(str::to_owned);
        End { resolution, decision: None, answers: None, execpolicy_amendment: None, reason }
    }
}

impl Core {
    /// The child asks something, and its turn waits for the answer.
    pub(crate) fn asked(&mut self, now: Now, epoch: Epoch, id: Value, notice: Notice, out: &mut Vec<Effect>) {
        let session = notice.thread_id.as_deref().and_then(|thread| self.state.session_of_thread(thread));
        let session = session.cloned();
        let (Some(kind), Some(session)) = (protocol::approval_kind(&notice.method), session.clone()) else {
            out.push(Effect::Send { epoch, message: protocol::refusal(&id, &notice.method) });
            let session_id = session.map(|session| session.id.clone());
            let Notice { method, thread_id, turn_id, .. } = notice;
            let refused = Event::ChildRequestRefused { epoch, method, session_id, thread_id, turn_id };
            self.emit(now, refused, out);
            return;
        };
        // It asks again of who joins a thread again, and never twice under one id.
        let known =
            |approval: &Arc<Approval>| approval.asked.epoch == epoch && approval.asked.request_id == id;
        if self.state.approvals().pending().any(known) {
            return;
        }
        self.flush(now, &session.thread_id, out);
        let timeout = self.birth.rules.approval_timeout;
        let deadline_at = Timestamp::from_millis(now.wall.millis() + timeout.as_millis() as u64);
        let overflow = self.state.approvals().count() >= MAX_APPROVALS;
        let approval_id = self.state.id("approval", self.birth.next);
        let asked = ApprovalRequested {
            approval_id: approval_id.clone(),
            kind,
            session_id: session.id.clone(),
            thread_id: session.thread_id.clone(),
            turn_id: notice.turn_id.clone(),
            item_id: notice.item_id.clone(),
            request_id: id,
            epoch,
            deadline_at,
            request: self.request(notice),
        };
        let seq = self.emit(now, Event::ApprovalRequested(Box::new(asked)), out);
        self.live.approvals.deadlines.insert(seq, now.mono + timeout);
        let interrupted = session.turn.as_ref().is_some_and(|turn| turn.interrupt.is_some());
        let Some(approval) = self.state.approvals().find(&approval_id).cloned() else { return };
        if overflow {
            self.decline(now, &approval, Resolution::Overflow, out);
        } else if interrupted {
            self.lose(now, &approval, "its turn is interrupted", out);
        }
    }

    /// What is asked, with what the child told before.
    fn request(&self, notice: Notice) -> Map<String, Value> {
        let mut request = notice.detail;
        if let (Some(thread_id), Some(item_id)) = (notice.thread_id, notice.item_id)
            && let Some(changes) = self.live.approvals.changes.get(&(thread_id, item_id))
        {
            request.insert("changes".into(), changes.clone());
        }
        request
    }

    /// The changes of a file come with the item, not with the request for it.
    pub(crate) fn remember_changes(&mut self, notice: &Notice) {
        if notice.item_type.as_deref() != Some("fileChange") {
            return;
        }
        let (Some(thread_id), Some(item_id)) = (&notice.thread_id, &notice.item_id) else { return };
        let key = (thread_id.clone(), item_id.clone());
        let changes = &mut self.live.approvals.changes;
        match notice.method.as_str() {
            "item/started" if notice.bytes <= protocol::MAX_REQUEST_BYTES => {
                if changes.len() == MAX_CHANGES {
                    changes.pop_first();
                }
                let item = notice.detail.get("item").unwrap_or(&Value::Null);
                changes.insert(key, item["changes"].clone());
            }
            "item/completed" => {
                changes.remove(&key);
            }
            _ => {}
        }
    }

    /// `POST …/approvals/:id`
    pub(crate) fn answer_approval(
        &mut self,
        now: Now,
        caller: Caller,
        answer: &Answer,
        out: &mut Vec<Effect>,
    ) {
        let outcome = self.pending(&answer.id).and_then(|approval| {
            let (end, result) = end(&approval, &answer.given)?;
            let (decision, answers) = (end.decision.clone(), end.answers.clone());
            self.resolve(now, &approval, end, out);
            let message = protocol::response(&approval.asked.request_id, result);
            out.push(Effect::Send { epoch: approval.asked.epoch, message });
            Ok(Reply::Answered { approval, decision, answers })
        });
        self.reply(caller.id, outcome, out);
    }

    fn pending(&self, id: &str) -> Result<Arc<Approval>, Error> {
        if let Some(approval) = self.state.approvals().find(id) {
            return Ok(approval.clone());
        }
        let Some(past) = self.state.approvals().resolved(id) else {
            return Err(Error::new(error::NOT_FOUND, format!("Unknown approval \"{id}\".")));
        };
        let how = match past.resolution {
            Resolution::Answered => "was answered already",
            Resolution::Expired => "was declined at its deadline",
            Resolution::Lost => "is lost: app-server waits for it no more",
            Resolution::Overflow => "was declined: too many waited already",
        };
        let details = json!({ "resolution": past.resolution, "decision": past.decision });
        Err(Error::new(error::CONFLICT, format!("Approval {id} {how}.")).details(details))
    }

    /// Those that nobody answered in time are declined, and the turn goes on.
    pub(crate) fn approvals_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        let due = self.live.approvals.deadlines.iter().filter(|&(_, &at)| at <= now.mono);
        for seq in due.map(|(&seq, _)| seq).collect::<Vec<_>>() {
            self.live.approvals.deadlines.remove(&seq);
            let found = self.state.approvals().pending().find(|approval| approval.seq == seq).cloned();
            if let Some(approval) = found {
                self.decline(now, &approval, Resolution::Expired, out);
            }
        }
    }

    fn decline(&mut self, now: Now, approval: &Approval, how: Resolution, out: &mut Vec<Effect>) {
        let end = End { decision: Some("decline".into()), ..End::new(how, None) };
        self.resolve(now, approval, end, out);
        let message = protocol::declined(&approval.asked.request_id, approval.asked.kind);
        out.push(Effect::Send { epoch: approval.asked.epoch, message });
    }

    /// The child waits no more for those of whom `which` is true.
    pub(crate) fn lose_approvals(
        &mut self,
        now: Now,
        which: impl Fn(&ApprovalRequested) -> bool,
        reason: &str,
        out: &mut Vec<Effect>,
    ) {
        let pending = self.state.approvals().pending();
        for approval in pending.filter(|approval| which(&approval.asked)).cloned().collect::<Vec<_>>() {
            self.lose(now, &approval, reason, out);
        }
    }

    /// The child waits no more, and what it asked for never began.
    fn lose(&mut self, now: Now, approval: &Approval, reason: &str, out: &mut Vec<Effect>) {
        self.resolve(now, approval, End::new(Resolution::Lost, Some(reason)), out);
        let asked = &approval.asked;
        let it = |item: &OpenItem| Some(&item.id) == asked.item_id.as_ref() && item.turn_id == asked.turn_id;
        if let Ok(session) = self.find(&asked.session_id) {
            self.close_items(now, session.seq, it, "nobody let it begin", out);
        }
    }

    /// The child says that a request of its is done with; codexd has not answered it.
    pub(crate) fn resolved_elsewhere(
        &mut self,
        now: Now,
        session: &Session,
        request_id: Option<&Value>,
        out: &mut Vec<Effect>,
    ) {
        let it = |approval: &&Arc<Approval>| {
            approval.asked.session_id == session.id && Some(&approval.asked.request_id) == request_id
        };
        let found = self.state.approvals().pending().find(it).cloned();
        if let Some(approval) = found {
            // It may have been answered by somebody else, and go on.
            let end = End::new(Resolution::Lost, Some("app-server waits for it no more"));
            self.resolve(now, &approval, end, out);
        }
    }

    /// A turn ends: what it waited for is lost, what it began is closed.
    pub(crate) fn close_turn(
        &mut self,
        now: Now,
        session: &Session,
        turn_id: Option<&str>,
        out: &mut Vec<Effect>,
    ) {
        let waits =
            |asked: &ApprovalRequested| asked.session_id == session.id && asked.turn_id.as_deref() == turn_id;
        self.lose_approvals(now, waits, "its turn has ended", out);
        // A command may outlive its turn; but what one of a closed session comes to is nobody's any more.
        let open = session.open;
        let left = |item: &OpenItem| item.turn_id.as_deref() == turn_id && !(item.is_command && open);
        self.close_items(now, session.seq, left, "its turn has ended", out);
    }

    /// Closes those of a session's open items of which `which` is true.
    pub(crate) fn close_items(
        &mut self,
        now: Now,
        session: Seq,
        which: impl Fn(&OpenItem) -> bool,
        reason: &str,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.by_seq(session) else { return };
        for item in session.open_items.iter().filter(|item| which(item)) {
            let closed = Event::ItemClosed {
                session_id: session.id.clone(),
                thread_id: session.thread_id.clone(),
                turn_id: item.turn_id.clone(),
                item_id: item.id.clone(),
                reason: reason.to_owned(),
            };
            self.emit(now, closed, out);
        }
    }

    fn resolve(&mut self, now: Now, approval: &Approval, end: End, out: &mut Vec<Effect>) {
        let asked = &approval.asked;
        let resolved = Event::ApprovalResolved {
            approval_id: asked.approval_id.clone(),
            session_id: Some(asked.session_id.clone()),
            thread_id: Some(asked.thread_id.clone()),
            turn_id: asked.turn_id.clone(),
            resolution: end.resolution,
            decision: end.decision,
            answers: end.answers,
            execpolicy_amendment: end.execpolicy_amendment,
            reason: end.reason,
        };
        self.emit(now, resolved, out);
        self.live.approvals.deadlines.remove(&approval.seq);
    }
}

/// How an answer ends an approval, and what the child is told.
fn end(approval: &Approval, given: &Given) -> Result<(End, Result<Value, String>), Error> {
    const AMENDED: &str = "acceptWithExecpolicyAmendment";
    let end = End::new(Resolution::Answered, None);
    match (approval.asked.kind, given) {
        (ApprovalKind::Question, Given::Answers(given)) => {
            let answers = answers(approval, given)?;
            Ok((End { answers: Some(answers.clone()), ..end }, Ok(json!({ "answers": answers }))))
        }
        (ApprovalKind::Question, Given::Decision(word)) if word == "decline" || word == "cancel" => {
            let end = End { decision: Some(word.clone()), ..end };
            Ok((end, Err("the user did not answer".to_owned())))
        }
        (ApprovalKind::Question, Given::Decision(_)) => {
            Err(invalid("answers", "Field `answers` is required: this is a question."))
        }
        (_, Given::Answers(_)) => {
            Err(invalid("decision", "Field `decision` is required: this is no question."))
        }
        // It writes a rule into the child's home that holds for every session, and for good.
        (ApprovalKind::Command, Given::Decision(word)) if word == AMENDED => {
            let Some(rule) =
                approval.asked.request.get("proposedExecpolicyAmendment").filter(|r| r.is_array())
            else {
                let message = format!("Field `decision`: app-server proposes no rule to {AMENDED}.");
                return Err(invalid("decision", message));
            };
            let end = End { decision: Some(word.clone()), execpolicy_amendment: Some(rule.clone()), ..end };
            Ok((end, Ok(json!({ "decision": { AMENDED: { "execpolicy_amendment": rule } } }))))
        }
        (ApprovalKind::FileChange, Given::Decision(word)) if word == AMENDED => {
            Err(invalid("decision", format!("Field `decision`: {AMENDED} is for commands.")))
        }
        (_, Given::Decision(word)) => {
            Ok((End { decision: Some(word.clone()), ..end }, Ok(json!({ "decision": word }))))
        }
    }
}

/// Answers as the child takes them, if each answers one of its questions.
fn answers(approval: &Approval, given: &Map<String, Value>) -> Result<Value, Error> {
    if given.is_empty() {
        return Err(invalid("answers", "Field `answers` is empty."));
    }
    let asked = approval.asked.request.get("questions").and_then(Value::as_array).into_iter().flatten();
    let asked: Vec<_> = asked.filter_map(|question| question["id"].as_str()).collect();
    // An answer to nothing would be the only one that there is.
    if let Some(id) = given.keys().find(|id| !asked.is_empty() && !asked.contains(&id.as_str())) {
        let asked = asked.join(", ");
        let message = format!("Field `answers.{id}` answers no question; asked were: {asked}.");
        return Err(invalid("answers", message));
    }
    protocol::answers(given).map_err(|id| {
        invalid("answers", format!("Field `answers.{id}` must be a text, a list of texts, or an object."))
    })
}
