//! The three methods of a turn: start (which steers a busy thread), steer, interrupt.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::requests::{now, optional_text, settle, text, wrong_type};
use super::turn::{Input, Turn, run};
use super::{Handled, Outcome, Refusal, World, refusal, views};

/// What the real one takes in one input.
const MAX_INPUT_CHARS: usize = 1_048_576;
const ITEM_TYPES: &[&str] = &["text", "image", "localImage", "audio", "localAudio", "skill", "mention"];

pub(super) fn start(world: &Arc<World>, params: &Value) -> Handled {
    let id = text(params, "threadId")?.to_owned();
    let input = read_input(params)?;
    if let Some(bad) = views::bad_uuid(&id) {
        return Err(refusal(format!("invalid thread id: {bad}")));
    }
    loop {
        let mut state = world.lock();
        let Some(loaded) = state.threads.get_mut(&id) else {
            return Err(refusal(format!("thread not found: {id}")));
        };
        if let Some(turn) = loaded.active.clone() {
            if turn.steer(input.clone()) {
                return now(json!({"turn": views::new_turn(&turn.id)}));
            }
            drop(state); // it is about to end
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        if settle(world, &mut loaded.thread, params)? {
            world.out.notify("thread/settings/updated", views::settings(&loaded.thread));
        }
        let turn = Arc::new(Turn::new(&id));
        loaded.thread.begin(&turn.id);
        world.store.save(&loaded.thread);
        loaded.active = Some(Arc::clone(&turn));
        let result = json!({"turn": views::new_turn(&turn.id)});
        let then = move |world: &Arc<World>| {
            let world = Arc::clone(world);
            let running = thread::Builder::new().name("turn".into()).spawn(move || run(&world, &turn, input));
            drop(running);
        };
        return Ok(Outcome::Then(result, Box::new(then)));
    }
}

pub(super) fn steer(world: &World, params: &Value) -> Handled {
    let (id, expected) = (text(params, "threadId")?, text(params, "expectedTurnId")?);
    let input = read_input(params)?;
    if expected.is_empty() {
        return Err(refusal("expectedTurnId must not be empty"));
    }
    let turn = active(world, id)?.ok_or_else(|| refusal("no active turn to steer"))?;
    if turn.id != expected {
        return Err(refusal(format!("expected active turn id `{expected}` but found `{}`", turn.id)));
    }
    if input.content.is_empty() {
        return Err(refusal("input must not be empty"));
    }
    if !turn.steer(input) {
        return Err(refusal("no active turn to steer"));
    }
    now(json!({"turnId": turn.id}))
}

pub(super) fn interrupt(world: &World, id: &Value, params: &Value) -> Handled {
    let (thread, given) = (text(params, "threadId")?, text(params, "turnId")?);
    let none = || refusal("no active turn to interrupt");
    let turn = active(world, thread)?.filter(|turn| turn.has_started()).ok_or_else(none)?;
    if turn.id != given {
        return Err(refusal(format!("expected active turn id {given} but found {}", turn.id)));
    }
    match turn.interrupt(Some(id.clone())) {
        Some(true) => Ok(Outcome::Later),
        Some(false) => now(json!({})),
        None => Err(none()),
    }
}

fn active(world: &World, thread: &str) -> Result<Option<Arc<Turn>>, Refusal> {
    let state = world.lock();
    let loaded = state.threads.get(thread).ok_or_else(|| refusal(format!("thread not found: {thread}")))?;
    Ok(loaded.active.clone())
}

fn read_input(params: &Value) -> Result<Input, Refusal> {
    let items = match &params["input"] {
        Value::Null => return Err(refusal("Invalid request: missing field `input`")),
        Value::Array(items) => items,
        other => return Err(wrong_type(other, "a sequence")),
    };
    let mut input = Input { client_id: params["clientUserMessageId"].clone(), ..Input::default() };
    for item in items {
        let kind = text(item, "type")?;
        if !ITEM_TYPES.contains(&kind) {
            let known = ITEM_TYPES.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
            return Err(refusal(format!(
                "Invalid request: unknown variant `{kind}`, expected one of {known}"
            )));
        }
        let mut item = item.clone();
        if kind == "text" {
            input.text += optional_text(&item, "text")?.unwrap_or_default();
            item["text_elements"] = json!([]);
        }
        input.content.push(item);
    }
    if input.text.chars().count() > MAX_INPUT_CHARS {
        let message = format!("Input exceeds the maximum length of {MAX_INPUT_CHARS} characters.");
        return Err(Refusal { code: -32602, message });
    }
    Ok(input)
}
