//! Stored things as the protocol shows them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::World;
use super::home::{Thread, TurnRecord};

pub(super) fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

pub(super) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// An id like the real ones: a UUID of version 7, never given twice.
pub(super) fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (ms, count) = (now_ms(), COUNT.fetch_add(1, Ordering::Relaxed));
    let (time, pid) = (ms & 0xffff_ffff_ffff, u64::from(std::process::id()));
    format!(
        "{:08x}-{:04x}-7{:03x}-8{:03x}-{:012x}",
        time >> 16,
        time & 0xffff,
        count & 0xfff,
        count >> 12 & 0xfff,
        pid
    )
}

/// Whether a thread id can be one; the refusal of the real one names the first bad character.
pub(super) fn bad_uuid(id: &str) -> Option<String> {
    let bad = id.char_indices().find(|(_, c)| !c.is_ascii_hexdigit() && *c != '-');
    let (at, c) = bad.or_else(|| (id.len() != 36).then_some((0, id.chars().next().unwrap_or(' '))))?;
    Some(format!(
        "invalid character: expected an optional prefix of `urn:uuid:` followed by [0-9a-fA-F-], found `{c}` at {}",
        at + 1
    ))
}

/// The object of a sandbox word, as answers show it.
pub(super) fn sandbox(word: &str) -> Option<Value> {
    Some(match word {
        "read-only" => json!({"type": "readOnly", "networkAccess": false}),
        "workspace-write" => json!({
            "type": "workspaceWrite", "writableRoots": [], "networkAccess": false,
            "excludeTmpdirEnvVar": false, "excludeSlashTmp": false,
        }),
        "danger-full-access" => json!({"type": "dangerFullAccess"}),
        _ => return None,
    })
}

/// `thread`, with a status of its own.
pub(super) fn thread(world: &World, thread: &Thread, status: &Value) -> Value {
    let preview = thread.turns.first().and_then(|turn| turn.items.first());
    let preview = preview.map_or("", |item| item["content"][0]["text"].as_str().unwrap_or_default());
    let path = format!("{}/sessions/rollout-{}.jsonl", world.store.path(), thread.id);
    json!({
        "id": thread.id, "sessionId": thread.id, "environments": environments(thread), "extra": null,
        "forkedFromId": null, "attachedToThreadId": null, "parentThreadId": null, "preview": preview,
        "ephemeral": thread.ephemeral, "section": null, "sectionEnteredAt": null, "projectId": null,
        "historyMode": "paginated", "modelProvider": thread.provider, "model": thread.model,
        "reasoningEffort": thread.effort, "createdAt": thread.created, "updatedAt": thread.updated,
        "recencyAt": thread.updated, "status": status, "path": (!thread.ephemeral).then_some(path),
        "cwd": thread.cwd, "cliVersion": world.options.version, "originator": thread.originator,
        "source": "vscode", "canAcceptDirectInput": true, "threadSource": null, "agentNickname": null,
        "agentRole": null, "gitInfo": null, "name": thread.name, "daybreakEnabled": null, "turns": [],
    })
}

/// The result of `thread/start`; `thread/resume` adds to it.
pub(super) fn opened(world: &World, of: &Thread) -> Value {
    json!({
        "thread": thread(world, of, &json!({"type": "idle"})), "model": of.model, "modelProvider": of.provider,
        "serviceTier": null, "disabledPluginIds": [], "cwd": of.cwd, "runtimeWorkspaceRoots": [of.cwd],
        "instructionSources": [], "approvalPolicy": of.approval, "approvalsReviewer": "user",
        "sandbox": of.sandbox, "activePermissionProfile": null, "reasoningEffort": of.effort,
        "multiAgentMode": "explicitRequestOnly",
    })
}

/// The parameters of `thread/settings/updated`.
pub(super) fn settings(thread: &Thread) -> Value {
    let settings = json!({
        "disabledPluginIds": [], "cwd": thread.cwd, "environments": environments(thread),
        "approvalPolicy": thread.approval, "approvalsReviewer": "user", "sandboxPolicy": thread.sandbox,
        "activePermissionProfile": null, "model": thread.model, "modelProvider": thread.provider,
        "serviceTier": null, "effort": thread.effort, "summary": null, "collaborationMode": thread.mode,
        "multiAgentMode": "explicitRequestOnly", "personality": null,
    });
    json!({"threadId": thread.id, "threadSettings": settings})
}

/// A turn that has only just been asked for.
pub(super) fn new_turn(id: &str) -> Value {
    json!({
        "id": id, "rootTurnId": id, "items": [], "itemsView": "notLoaded", "status": "inProgress", "error": null,
        "startedAt": null, "completedAt": null, "durationMs": null,
    })
}

/// A turn of the history; the summary holds the user's messages and the last of the agent's.
pub(super) fn stored_turn(turn: &TurnRecord, full: bool) -> Value {
    let last = turn.items.iter().rposition(|item| item["type"] == "agentMessage");
    let shown = |(at, item): &(usize, &Value)| full || item["type"] == "userMessage" || Some(*at) == last;
    let items = turn.items.iter().enumerate().filter(shown).map(|(_, item)| item.clone()).collect::<Vec<_>>();
    json!({
        "id": turn.id, "rootTurnId": turn.id, "items": items, "itemsView": if full { "full" } else { "summary" },
        "status": turn.status, "error": turn.error, "startedAt": turn.started_ms / 1000,
        "completedAt": turn.ended_ms.map(|ms| ms / 1000),
        "durationMs": turn.ended_ms.map(|ms| ms.saturating_sub(turn.started_ms)),
    })
}

/// What so many responses have cost: each as much as the stand-in model says.
pub(super) fn usage(thread: &str, turn: &str, responses: u64) -> Value {
    let of = |times: u64| {
        json!({
            "totalTokens": 15 * times, "inputTokens": 10 * times, "cachedInputTokens": 3 * times,
            "cacheWriteInputTokens": 0, "outputTokens": 5 * times, "reasoningOutputTokens": times,
        })
    };
    let usage = json!({"total": of(responses), "last": of(1), "modelContextWindow": 258_400});
    json!({"threadId": thread, "turnId": turn, "tokenUsage": usage})
}

fn environments(thread: &Thread) -> Value {
    json!([{"environmentId": "local", "cwd": thread.cwd, "runtimeWorkspaceRoots": [thread.cwd]}])
}

/// A message of the agent.
pub(super) fn message(text: &str) -> Value {
    json!({
        "type": "agentMessage", "moderation": null, "id": format!("msg_{}", new_id()), "text": text,
        "phase": null, "memoryCitation": null, "delivery": null, "questions": null,
        "startedAtMs": now_ms(), "completedAtMs": null,
    })
}

/// An error as notifications and turns hold it.
pub(super) fn error(message: &str, info: Value) -> Value {
    json!({"message": message, "codexErrorInfo": info, "additionalDetails": null, "misalignment": null})
}

/// How a status of the model's server is told.
pub(super) fn failure(status: u16) -> Value {
    let demand = "We\u{2019}re currently experiencing high demand, which may cause temporary errors.";
    match status {
        500 => error(demand, json!("internalServerError")),
        503 => {
            error("Selected model is at capacity. Please try a different model.", json!("serverOverloaded"))
        }
        _ => {
            let info = json!({"httpConnectionFailed": {"httpStatusCode": status}});
            error(&format!("unexpected status {status}: the script says so"), info)
        }
    }
}
