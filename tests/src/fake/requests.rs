//! The methods that need no turn: handshake, reads, and the life of a thread.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread as threads;
use std::time::Duration;

use serde_json::{Value, json};

use super::home::Thread;
use super::{Handled, Loaded, Outcome, Refusal, World, refusal, turn_start, views};

const METHODS: &[&str] = &[
    "initialize",
    "thread/start",
    "thread/resume",
    "thread/read",
    "thread/turns/list",
    "thread/loaded/list",
    "thread/name/set",
    "thread/archive",
    "thread/unarchive",
    "thread/unsubscribe",
    "turn/start",
    "turn/steer",
    "turn/interrupt",
    "model/list",
    "config/read",
    "account/read",
    "account/rateLimits/read",
];

/// How a method that this version does not know is refused.
pub(super) fn unknown(method: &str) -> Refusal {
    let known = METHODS.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
    refusal(format!("Invalid request: unknown variant `{method}`, expected one of {known}"))
}

pub(super) fn handle(world: &Arc<World>, method: &str, id: &Value, params: &Value) -> Handled {
    if !METHODS.contains(&method) {
        return Err(unknown(method));
    }
    if method != "initialize" && !world.lock().initialized {
        return Err(refusal("Not initialized"));
    }
    match method {
        "initialize" => initialize(world, params),
        "config/read" => config_read(world),
        "account/read" => {
            let required = world.options.login_required;
            now(
                json!({"account": null, "userId": null, "requiresOpenaiAuth": required, "workspaceRouting": null}),
            )
        }
        "account/rateLimits/read" => {
            Err(refusal("codex account authentication required to read rate limits"))
        }
        "model/list" => {
            let model = |id: &str, default: bool| {
                json!({
                    "id": id, "model": id, "displayName": id, "description": "a model of the fake", "hidden": false,
                    "supportedReasoningEfforts": [{"reasoningEffort": "low", "description": "low"}],
                    "defaultReasoningEffort": "low", "inputModalities": ["text", "image"], "isDefault": default,
                })
            };
            now(json!({"data": [model("gpt-6.1-sol", true), model("gpt-5.5", false)], "nextCursor": null}))
        }
        "thread/start" => start(world, params),
        "thread/resume" => resume(world, params),
        "thread/read" => read(world, params),
        "thread/turns/list" => turns_list(world, params),
        "thread/loaded/list" => {
            let mut ids = world.lock().threads.keys().cloned().collect::<Vec<_>>();
            ids.sort();
            now(json!({"data": ids, "nextCursor": null}))
        }
        "thread/name/set" => name_set(world, params),
        "thread/archive" => archive(world, params),
        "thread/unarchive" => unarchive(world, params),
        "thread/unsubscribe" => now(json!({"status": "unsubscribed"})),
        "turn/start" => turn_start::start(world, params),
        "turn/steer" => turn_start::steer(world, params),
        _ => turn_start::interrupt(world, id, params),
    }
}

pub(super) fn now(result: Value) -> Handled {
    Ok(Outcome::Now(result))
}

/// A required text; `null` counts as missing.
pub(super) fn text<'a>(params: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    optional_text(params, name)?.ok_or_else(|| refusal(format!("Invalid request: missing field `{name}`")))
}

/// An optional text.
pub(super) fn optional_text<'a>(params: &'a Value, name: &str) -> Result<Option<&'a str>, Refusal> {
    match &params[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => Err(wrong_type(other, "a string")),
    }
}

pub(super) fn wrong_type(value: &Value, expected: &str) -> Refusal {
    let kind = match value {
        Value::String(_) => format!("string {value}"),
        Value::Number(_) => format!("integer `{value}`"),
        Value::Bool(_) => format!("boolean `{value}`"),
        Value::Array(_) => "sequence".to_owned(),
        _ => "map".to_owned(),
    };
    refusal(format!("Invalid request: invalid type: {kind}, expected {expected}"))
}

fn initialize(world: &Arc<World>, params: &Value) -> Handled {
    let client = &params["clientInfo"];
    let (name, version) = (text(client, "name")?.to_owned(), text(client, "version")?.to_owned());
    let mut state = world.lock();
    if std::mem::replace(&mut state.initialized, true) {
        return Err(refusal("Already initialized"));
    }
    state.originator.clone_from(&name);
    drop(state);
    world.out.mute(&params["capabilities"]["optOutNotificationMethods"]);
    let agent = format!("{name}/{} (Fake 0.0.0; x86_64) xterm ({name}; {version})", world.options.version);
    let result = json!({
        "userAgent": agent, "codexHome": world.store.path(), "platformFamily": "unix", "platformOs": std::env::consts::OS,
    });
    let then = |world: &Arc<World>| {
        let status = json!({"status": "disabled", "serverName": "fake", "installationId": views::new_id(), "environmentId": null});
        world.out.notify("remoteControl/status/changed", status);
        if is_broken(world) {
            let warning = json!({
                "summary": "Invalid configuration; using defaults.", "details": "config.toml:1:9: extra `=`, expected nothing",
                "path": format!("{}/config.toml", world.store.path()),
            });
            world.out.notify("configWarning", warning);
        }
    };
    Ok(Outcome::Then(result, Box::new(then)))
}

fn is_broken(world: &World) -> bool {
    world.options.broken_config && world.faulty
}

fn config_read(world: &World) -> Handled {
    let broken = "failed to load configuration: config.toml:1:9: extra `=`, expected nothing";
    if is_broken(world) {
        return Err(Refusal { code: -32603, message: broken.into() });
    }
    let config = json!({
        "model": world.config.model, "model_provider": world.config.provider,
        "approval_policy": world.config.approval, "sandbox_mode": world.config.sandbox,
    });
    now(json!({"config": config, "origins": {}}))
}

fn start(world: &Arc<World>, params: &Value) -> Handled {
    if is_broken(world) {
        return Err(refusal("failed to load configuration: config.toml:1:9: extra `=`, expected nothing"));
    }
    let mut state = world.lock();
    let created = views::now_ms() / 1000;
    let model = world.config.model.clone();
    let mode = json!({"mode": "default", "settings": {"model": model, "reasoning_effort": null, "developer_instructions": null}});
    let mut thread = Thread {
        id: views::new_id(),
        cwd: std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned(),
        model,
        provider: world.config.provider.clone(),
        approval: world.config.approval.clone().into(),
        sandbox: views::sandbox(&world.config.sandbox).unwrap_or_default(),
        effort: Value::Null,
        mode,
        originator: state.originator.clone(),
        name: None,
        ephemeral: params["ephemeral"] == true,
        archived: false,
        material: false,
        responses: 0,
        created,
        updated: created,
        turns: Vec::new(),
        writer: world.store.writer().to_owned(),
    };
    settle(world, &mut thread, params)?;
    let result = views::opened(world, &thread);
    state.threads.insert(thread.id.clone(), Loaded { thread, active: None, allowed: HashSet::new() });
    if state.threads.len() > world.options.most_threads {
        let idle = state.threads.iter().filter(|(_, loaded)| loaded.active.is_none());
        let oldest = idle.map(|(id, _)| id).min().cloned(); // ids are in order of time
        oldest.and_then(|id| state.threads.remove(&id));
    }
    let started = json!({"thread": result["thread"]});
    Ok(Outcome::Then(result, Box::new(move |world| world.out.notify("thread/started", started))))
}

/// Puts the settings of a request into a thread; says whether one changed.
pub(super) fn settle(world: &World, thread: &mut Thread, params: &Value) -> Result<bool, Refusal> {
    let before = views::settings(thread);
    if let Some(cwd) = optional_text(params, "cwd")?.filter(|cwd| !cwd.is_empty()) {
        let full = std::env::current_dir().unwrap_or_default().join(cwd);
        thread.cwd = full.to_string_lossy().into_owned();
    }
    if let Some(model) = optional_text(params, "model")? {
        thread.model = model.to_owned();
    }
    if let Some(provider) = optional_text(params, "modelProvider")? {
        if provider != world.config.provider {
            return Err(refusal(format!(
                "failed to load configuration: Model provider `{provider}` not found"
            )));
        }
        thread.provider = provider.to_owned();
    }
    match &params["approvalPolicy"] {
        Value::Null => {}
        Value::String(policy) if !matches!(policy.as_str(), "untrusted" | "on-request" | "never") => {
            let expected = "`untrusted`, `on-request`, `granular`, `never`";
            return Err(refusal(format!(
                "Invalid request: unknown variant `{policy}`, expected one of {expected}"
            )));
        }
        policy => thread.approval = policy.clone(),
    }
    if let Some(word) = optional_text(params, "sandbox")? {
        let expected = "`read-only`, `workspace-write`, `danger-full-access`";
        let unknown =
            || refusal(format!("Invalid request: unknown variant `{word}`, expected one of {expected}"));
        thread.sandbox = views::sandbox(word).ok_or_else(unknown)?;
    }
    match &params["sandboxPolicy"] {
        Value::Null => {}
        policy @ Value::Object(_) => thread.sandbox = policy.clone(),
        other => return Err(wrong_type(other, "internally tagged enum SandboxPolicyDeserialize")),
    }
    if let Some(effort) = optional_text(params, "effort")? {
        thread.effort = effort.into();
    }
    if params["collaborationMode"].is_object() {
        thread.mode = params["collaborationMode"].clone();
    }
    Ok(before != views::settings(thread))
}

fn resume(world: &Arc<World>, params: &Value) -> Handled {
    let id = text(params, "threadId")?.to_owned();
    if let Some(bad) = views::bad_uuid(&id) {
        return Err(refusal(format!("invalid session id: {bad}")));
    }
    let no_rollout = || refusal(format!("no rollout found for thread id {id}"));
    let old_form = params["excludeTurns"] != true;
    let mut state = world.lock();
    let cold = !state.threads.contains_key(&id);
    if cold {
        let thread = load(world, &id, params)?;
        if old_form {
            let notice = json!({"summary": "thread/resume without excludeTurns", "details": null});
            world.out.notify("deprecationNotice", notice);
        }
        world.out.notify("thread/status/changed", json!({"threadId": id, "status": {"type": "idle"}}));
        state.threads.insert(id.clone(), Loaded { thread, active: None, allowed: HashSet::new() });
    }
    // What still waits for an answer is asked again.
    let pending = state.requests.values().filter(|one| one.turn.thread == id);
    let pending = pending.map(|one| one.message.clone()).collect::<Vec<_>>();
    let loaded = state.threads.get(&id).filter(|loaded| loaded.thread.material);
    let thread = &loaded.ok_or_else(no_rollout)?.thread;
    let mut result = views::opened(world, thread);
    result["collaborationMode"] = thread.mode.clone();
    for key in ["initialTurnsPage", "turnsBackwardsCursor", "itemsBackwardsCursor"] {
        result[key] = Value::Null;
    }
    if old_form {
        result["thread"]["turns"] = thread.turns.iter().map(|turn| views::stored_turn(turn, true)).collect();
    }
    let last = thread.turns.last().map(|turn| views::usage(&id, &turn.id, thread.responses));
    let usage = last.filter(|_| cold && thread.responses > 0);
    let then = move |world: &Arc<World>| {
        usage.into_iter().for_each(|usage| world.out.notify("thread/tokenUsage/updated", usage));
        world.out.notify("thread/goal/cleared", json!({"threadId": id}));
        pending.iter().for_each(|message| world.out.send(message));
    };
    Ok(Outcome::Then(result, Box::new(then)))
}

/// A stored thread with the settings of a request, from now on this process's own.
fn load(world: &World, id: &str, params: &Value) -> Result<Thread, Refusal> {
    let missing = || refusal(format!("no rollout found for thread id {id}"));
    let mut thread = world.store.load(id).ok_or_else(missing)?;
    if thread.archived {
        let hint = format!("session {id} is archived. Run `codex unarchive {id}` to unarchive it first.");
        return Err(refusal(hint));
    }
    if world.store.is_taken(&thread) {
        return Err(refusal(format!("thread {id} already has an active writer")));
    }
    // Seen with the real one: this sandbox is not restored, the others are.
    if thread.sandbox["type"] == "workspaceWrite" {
        thread.sandbox = views::sandbox(&world.config.sandbox).unwrap_or_default();
    }
    settle(world, &mut thread, params)?;
    thread.writer = world.store.writer().to_owned();
    world.store.save(&thread);
    Ok(thread)
}

/// What is to be done with a thread that is loaded or stored.
fn with_thread<T>(
    world: &World,
    id: &str,
    missing: &str,
    act: impl FnOnce(&mut Thread, bool) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    if let Some(loaded) = world.lock().threads.get_mut(id) {
        return act(&mut loaded.thread, true);
    }
    let mut thread = world.store.load(id).ok_or_else(|| refusal(format!("{missing}{id}")))?;
    act(&mut thread, false)
}

fn read(world: &World, params: &Value) -> Handled {
    let id = text(params, "threadId")?;
    with_thread(world, id, "thread not loaded: ", |thread, loaded| {
        let running = thread.turns.last().is_some_and(|turn| turn.status == "inProgress");
        let status = match (loaded, running) {
            (false, _) => json!({"type": "notLoaded"}),
            (true, false) => json!({"type": "idle"}),
            (true, true) => json!({"type": "active", "activeFlags": []}),
        };
        let mut view = views::thread(world, thread, &status);
        if params["includeTurns"] == true {
            view["turns"] = thread.turns.iter().map(|turn| views::stored_turn(turn, true)).collect();
        }
        now(json!({"thread": view, "readState": {"firstUnread": null, "revision": views::new_id()}}))
    })
}

fn turns_list(world: &World, params: &Value) -> Handled {
    let id = text(params, "threadId")?;
    with_thread(world, id, "thread not loaded: ", |thread, _| {
        if !thread.material {
            let why = "is not materialized yet; thread/turns/list is unavailable before first user message";
            return Err(refusal(format!("thread {id} {why}")));
        }
        let full = params["itemsView"] == "full";
        let mut turns = thread.turns.iter().map(|turn| views::stored_turn(turn, full)).collect::<Vec<_>>();
        if params["sortDirection"] != "asc" {
            turns.reverse();
        }
        let from: usize = params["cursor"].as_str().and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let limit = params["limit"].as_u64().map_or(usize::MAX, |limit| limit as usize);
        let to = from.saturating_add(limit);
        let next = (to < turns.len()).then(|| to.to_string());
        let page = turns.into_iter().skip(from).take(limit).collect::<Vec<_>>();
        now(json!({"data": page, "nextCursor": next, "backwardsCursor": null}))
    })
}

fn name_set(world: &Arc<World>, params: &Value) -> Handled {
    let (id, name) = (text(params, "threadId")?.to_owned(), text(params, "name")?.to_owned());
    if name.is_empty() {
        return Err(refusal("thread name must not be empty"));
    }
    with_thread(world, &id, "no rollout found for thread id ", |thread, _| {
        thread.name = Some(name.clone());
        thread.material = true;
        world.store.save(thread);
        Ok(())
    })?;
    let updated = json!({"threadId": id, "threadName": name});
    Ok(Outcome::Then(json!({}), Box::new(move |world| world.out.notify("thread/name/updated", updated))))
}

fn archive(world: &Arc<World>, params: &Value) -> Handled {
    let id = text(params, "threadId")?.to_owned();
    let active = world.lock().threads.get(&id).and_then(|loaded| loaded.active.clone());
    if let Some(turn) = active {
        turn.interrupt(None);
        while world.lock().threads.get(&id).is_some_and(|loaded| loaded.active.is_some()) {
            threads::sleep(Duration::from_millis(1));
        }
    }
    with_thread(world, &id, "no rollout found for thread id ", |thread, loaded| {
        thread.archived = true;
        thread.writer.clear();
        world.store.save(thread);
        if loaded {
            let status = json!({"threadId": id, "status": {"type": "notLoaded"}});
            world.out.notify("thread/status/changed", status);
        }
        Ok(())
    })?;
    world.lock().threads.remove(&id);
    let archived = json!({"threadId": id});
    Ok(Outcome::Then(json!({}), Box::new(move |world| world.out.notify("thread/archived", archived))))
}

fn unarchive(world: &Arc<World>, params: &Value) -> Handled {
    let id = text(params, "threadId")?.to_owned();
    let view = with_thread(world, &id, "no rollout found for thread id ", |thread, _| {
        thread.archived = false;
        world.store.save(thread);
        Ok(views::thread(world, thread, &json!({"type": "notLoaded"})))
    })?;
    let unarchived = json!({"threadId": id});
    let then = move |world: &Arc<World>| world.out.notify("thread/unarchived", unarchived);
    Ok(Outcome::Then(json!({"thread": view}), Box::new(then)))
}
