//! State as the wire shows it: sessions, status, recent events. Text is made here, in the thread of whoever asks.

use std::io;
use std::sync::Arc;

use common::log::{Feed, Seq};
use serde_json::{Value, json};

use crate::core::{SessionSeen, Snapshot};
use crate::cut;
use crate::state::{Approval, LastTurn, Session};

/// The largest detail of an event among recent ones.
pub const RECENT_DETAIL_BYTES: usize = 2048;

/// How many bytes of sessions an answer has at the most; conductor takes 64 MiB of it.
pub const MAX_SESSIONS_BYTES: usize = 8 * 1024 * 1024;
/// And the document: 20 000 ordinary sessions have 15 MB.
pub const MAX_REGISTRY_BYTES: usize = 32 * 1024 * 1024;
/// A session without metadata, generously.
const SMALL_SESSION_BYTES: usize = 1024;

/// What a view shows that is no state.
#[derive(Clone, Debug)]
pub struct Place {
    /// The daemon's own name, drawn once for its state directory.
    pub daemon_id: String,
    /// The node.
    pub node_id: String,
    /// The repo root.
    pub repo_root: String,
    /// How the child is reached, in words: `stdio://`.
    pub endpoint: String,
    /// `spawn` or `external`.
    pub strategy: &'static str,
}

/// A session.
pub fn session(seen: &SessionSeen, place: &Place) -> Value {
    session_of(&seen.session, seen.child_pid, place)
}

/// A session, and the pid of the child that would serve it.
pub fn session_of(session: &Session, child_pid: Option<u32>, place: &Place) -> Value {
    let (settings, last) = (&session.settings, session.last.as_ref());
    json!({
        "sessionId": session.id,
        "purpose": session.purpose,
        "threadId": session.thread_id,
        "status": if session.open { "active" } else { "closed" },
        "endpoint": place.endpoint,
        "childPid": child_pid,
        "createdAt": session.created_at,
        "updatedAt": session.updated_at,
        "cwd": settings.cwd,
        "model": settings.model,
        "modelProvider": settings.model_provider,
        "serviceTier": settings.service_tier,
        "reasoningEffort": settings.reasoning_effort,
        "currentTurnId": session.turn.as_ref().and_then(|turn| turn.id()),
        "lastTurnId": last.map(|last| &last.id),
        "lastTurnStatus": last.map(|last| last.status),
        "metadata": session.metadata,
    })
}

/// All that the agent waits for.
pub fn approvals(pending: &[Arc<Approval>]) -> Vec<Value> {
    pending.iter().map(|approval| self::approval(approval)).collect()
}

/// What the agent waits for.
pub fn approval(approval: &Approval) -> Value {
    let asked = &approval.asked;
    json!({
        "approvalId": asked.approval_id,
        "kind": asked.kind,
        "sessionId": asked.session_id,
        "threadId": asked.thread_id,
        "turnId": asked.turn_id,
        "itemId": asked.item_id,
        "requestedAt": approval.requested_at,
        "deadlineAt": asked.deadline_at,
        "request": asked.request,
    })
}

/// `identity` of the snapshot, and `identity.json`.
pub fn identity(place: &Place, version: &str) -> Value {
    let known = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    json!({
        "daemonId": known(&place.daemon_id),
        "nodeId": place.node_id,
        "repoRoot": place.repo_root,
        "version": known(version),
    })
}

/// `daemon` of the snapshot, and `daemon-state.json`.
pub fn daemon(snapshot: &Snapshot, place: &Place) -> Value {
    let (daemon, child) = (&snapshot.daemon, &snapshot.child);
    json!({
        "started": daemon.started,
        "startedAt": daemon.started_at,
        "updatedAt": snapshot.at,
        "pid": daemon.pid,
        "processStartedAt": daemon.process_started_at,
        "child": {
            "endpoint": place.endpoint,
            "lastError": child.last_error,
            "pid": child.pid,
            "status": child.status,
            "strategy": place.strategy,
            "version": child.version,
            "warning": child.warning,
            "restarts": child.restarts,
            "loginRequired": child.login_required,
        },
    })
}

/// The newest of these sessions, oldest first, as many as fit into `max` bytes of an answer (at least one): callers choose
/// how large their metadata is.
pub fn sessions(sessions: &[Arc<Session>], child_pid: Option<u32>, place: &Place, max: usize) -> Vec<Value> {
    let (mut views, mut bytes) = (Vec::new(), 0);
    for session in sessions.iter().rev() {
        let view = session_of(session, child_pid, place);
        bytes += if session.metadata.is_null() { SMALL_SESSION_BYTES } else { printed(&view) };
        if bytes > max && !views.is_empty() {
            break;
        }
        views.push(view);
    }
    views.reverse();
    views
}

/// How many bytes a value takes in an answer: indented, and some levels down.
fn printed(value: &Value) -> usize {
    const DEEPER_BYTES: usize = 10;
    let text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.len() + DEEPER_BYTES * text.iter().filter(|&&byte| byte == b'\n').count()
}

/// `sessionRegistry` of the snapshot, and `session-registry.json`, with sessions up to `max` bytes.
pub fn registry(snapshot: &Snapshot, place: &Place, max: usize) -> Value {
    let sessions = sessions(&snapshot.sessions, snapshot.child.pid, place, max);
    json!({
        "updatedAt": snapshot.at,
        "sessions": sessions,
        "count": snapshot.count,
        "activeCount": snapshot.active,
    })
}

/// `recentEvents` of the snapshot, and `recent-events.json`.
///
/// # Errors
/// If the log cannot be read.
pub fn recent(snapshot: &Snapshot, feed: &Feed) -> io::Result<Value> {
    Ok(json!({ "updatedAt": snapshot.at, "events": events(feed, &snapshot.recent)? }))
}

/// `runRegistry` and `run-registry.json`: kept for old readers, always empty.
pub fn runs() -> Value {
    json!({ "runs": [] })
}

/// The recent events of a session; the two of its newest turn are always among them.
///
/// # Errors
/// If the log cannot be read.
pub fn session_events(session: &Arc<Session>, feed: &Feed) -> io::Result<Vec<Value>> {
    let mut seqs: Vec<Seq> = session.recent.iter().copied().collect();
    if let Some(last) = &session.last {
        seqs.extend([last.accepted, last.completed].into_iter().flatten());
    }
    seqs.sort_unstable();
    seqs.dedup();
    let mut found = events(feed, &seqs)?;
    if let Some(last) = &session.last {
        let missing = |seq: &Option<Seq>| seq.filter(|seq| !found.iter().any(|event| event["seq"] == *seq));
        let gone = [
            missing(&last.accepted).map(|seq| retold(session, last, seq, "turn.accepted")),
            missing(&last.completed).map(|seq| retold(session, last, seq, "app-server.turn.completed")),
        ];
        found.extend(gone.into_iter().flatten());
        found.sort_by_key(|event| event["seq"].as_u64());
    }
    Ok(found)
}

/// An event of the newest turn that the log no longer holds, from what the state knows of it.
fn retold(session: &Session, last: &LastTurn, seq: Seq, r#type: &str) -> Value {
    json!({
        "seq": seq,
        "createdAt": session.updated_at,
        "level": "info",
        "type": r#type,
        "message": "No longer in the log; told from the session.",
        "detail": {
            "sessionId": session.id,
            "threadId": session.thread_id,
            "turnId": last.id,
            "turn": { "id": last.id, "status": last.status },
            "truncated": true,
        },
    })
}

fn events(feed: &Feed, seqs: &[Seq]) -> io::Result<Vec<Value>> {
    let mut found = Vec::with_capacity(seqs.len());
    feed.lines(seqs, |line| {
        if let Ok(Value::Object(mut event)) = serde_json::from_str(line) {
            if let Some(Value::Object(detail)) = event.remove("detail") {
                let bytes = cut::size(&detail);
                event.insert("detail".into(), cut::object(detail, bytes, RECENT_DETAIL_BYTES).into());
            }
            found.push(Value::Object(event));
        }
    })?;
    Ok(found)
}
