//! What is to work, whoever is in between: each scenario talks, checks what matters, and leaves its events to compare.

use std::time::Duration;

use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

use crate::driver::{Driver, Event};

/// A turn that just answers: deltas that make up its text.
pub(crate) fn hello(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "good morning", json!({}));
    let text = completed(d, &turn);
    assert!(text.contains("good morning"), "{text}");
    let events = d.events();
    let deltas = events.iter().filter(|event| event.is("item/agentMessage/delta"));
    assert_eq!(deltas.map(|event| event.params["delta"].as_str().unwrap()).collect::<String>(), text);
}

/// The second turn goes on where the first ended, under an id of its own.
pub(crate) fn two_turns(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let first = d.say(&conversation, "one", json!({}));
    assert!(completed(d, &first).contains("one"));
    let second = d.say(&conversation, "[[say two words]]", json!({}));
    assert_ne!(first, second);
    assert_eq!(completed(d, &second), "two words");
}

/// A command that fails does not fail the turn.
pub(crate) fn command(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "[[say let me see]] [[exec echo found; exit 3]]", json!({}));
    let item = item_end(d, "commandExecution");
    assert_eq!(
        (&item["status"], &item["exitCode"], &item["aggregatedOutput"]),
        (&json!("failed"), &json!(3), &json!("found\n"))
    );
    assert_eq!(completed(d, &turn), "Done: found");
}

/// A new file.
pub(crate) fn patch(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "[[patch new.txt hello]]", json!({}));
    let item = item_end(d, "fileChange");
    assert_eq!((&item["status"], &item["changes"][0]["diff"]), (&json!("completed"), &json!("hello\n")));
    let path = item["changes"][0]["path"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "hello\n");
    completed(d, &turn);
}

/// A turn whose model fails, and then a good one.
pub(crate) fn failure(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "[[fail 500]]", json!({}));
    let end = ended(d, &turn, "failed");
    assert_eq!(end["error"]["codexErrorInfo"], "internalServerError");
    let next = d.say(&conversation, "better now", json!({}));
    assert!(completed(d, &next).contains("better now"));
}

/// A stream that breaks once: the user sees a notice, and the whole answer.
pub(crate) fn retry(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "[[cut]] [[say all there]]", json!({}));
    let notice = d.wait("a notice", &|event| event.is("error"));
    assert_eq!(notice.params["willRetry"], true);
    assert_eq!(notice.params["error"]["message"], "Reconnecting... 1/2");
    assert_eq!(completed(d, &turn), "all there");
}

/// A stream that always breaks.
pub(crate) fn retries_exhausted(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "[[cut 9]]", json!({}));
    let end = ended(d, &turn, "failed");
    assert_eq!(end["error"]["codexErrorInfo"], "other");
}

/// A turn that is interrupted while it speaks.
pub(crate) fn interrupt(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "[[say-slow 5000 a b c]]", json!({}));
    d.wait("the first word", &|event| event.is("item/agentMessage/delta"));
    d.interrupt(&conversation, &turn);
    ended(d, &turn, "interrupted");
    let next = d.say(&conversation, "still there?", json!({}));
    assert!(completed(d, &next).contains("still there?"));
}

/// A command outlives the interrupt of its turn, and its end is told afterwards; before 0.115 it dies.
pub(crate) fn interrupt_command(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "[[exec echo $$ >pid; sleep 2; echo late]]", json!({}));
    let pid = d.bench().cwd.join("pid");
    d.wait("the command", &|event| event.is_item("item/started", "commandExecution"));
    let pid = eventually("a running command", SOON, || {
        std::fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n'))
    });
    d.interrupt(&conversation, &turn);
    ended(d, &turn, "interrupted");
    if !d.bench().codex.since(115) {
        let process = std::path::Path::new("/proc").join(pid.trim());
        return eventually("its death", Duration::from_millis(1500), || (!process.exists()).then_some(()));
    }
    let item = item_end(d, "commandExecution");
    assert_eq!((&item["status"], &item["aggregatedOutput"]), (&json!("completed"), &json!("late\n")));
}

/// Something said to a running turn cuts what it was saying, and is answered in the same turn.
pub(crate) fn steer(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let turn = d.say(&conversation, "[[say-slow 5000 a b c]]", json!({}));
    d.wait("the first word", &|event| event.is("item/agentMessage/delta"));
    let refusal = d.steer(&conversation, "another", "no").unwrap_err();
    assert!(refusal.contains("another"), "{refusal}");
    d.steer(&conversation, &turn, "[[say other way]]").unwrap();
    assert_eq!(completed(d, &turn), "other way");
}

pub(crate) fn command_accepted(d: &mut dyn Driver) {
    let (_, turn, request) = ask(d, "[[exec touch made; echo yes]]", "item/commandExecution/requestApproval");
    assert_eq!(request.params["command"], "/bin/bash -lc 'touch made; echo yes'");
    d.answer(&request, json!({"decision": "accept"}));
    assert_eq!(item_end(d, "commandExecution")["aggregatedOutput"], "yes\n");
    assert_eq!(completed(d, &turn), "Done: yes");
}

/// The turn goes on without the command.
pub(crate) fn command_declined(d: &mut dyn Driver) {
    let (_, turn, request) = ask(d, "[[exec touch made; echo yes]]", "item/commandExecution/requestApproval");
    d.answer(&request, json!({"decision": "decline"}));
    assert_eq!(item_end(d, "commandExecution")["status"], "declined");
    assert!(completed(d, &turn).contains("rejected by user"));
}

/// The turn ends.
pub(crate) fn command_cancelled(d: &mut dyn Driver) {
    let (_, turn, request) = ask(d, "[[exec touch made; echo yes]]", "item/commandExecution/requestApproval");
    d.answer(&request, json!({"decision": "cancel"}));
    assert_eq!(item_end(d, "commandExecution")["status"], "declined");
    ended(d, &turn, "interrupted");
}

pub(crate) fn patch_accepted(d: &mut dyn Driver) {
    let (_, turn, request) = ask(d, "[[patch new.txt hello]]", "item/fileChange/requestApproval");
    d.answer(&request, json!({"decision": "accept"}));
    assert_eq!(item_end(d, "fileChange")["status"], "completed");
    completed(d, &turn);
}

pub(crate) fn patch_declined(d: &mut dyn Driver) {
    let (_, turn, request) = ask(d, "[[patch new.txt hello]]", "item/fileChange/requestApproval");
    d.answer(&request, json!({"decision": "decline"}));
    assert_eq!(item_end(d, "fileChange")["status"], "declined");
    assert!(completed(d, &turn).contains("rejected by user"));
}

/// An interrupt takes a pending approval with it; a late answer does no harm.
pub(crate) fn interrupt_waiting(d: &mut dyn Driver) {
    let (conversation, turn, request) =
        ask(d, "[[exec touch never]]", "item/commandExecution/requestApproval");
    d.interrupt(&conversation, &turn);
    ended(d, &turn, "interrupted");
    d.wait("the request's end", &|event| event.is("serverRequest/resolved"));
    d.answer_too_late(&request, json!({"decision": "accept"}));
    let next = d.say(&conversation, "go on", json!({"approvalPolicy": "never"}));
    assert!(completed(d, &next).contains("go on"));
}

/// A question to the user, which the model can ask in plan mode.
pub(crate) fn question(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let settings = json!({"model": "gpt-5.5", "reasoning_effort": null, "developer_instructions": null});
    let plan = json!({"collaborationMode": {"mode": "plan", "settings": settings}});
    let turn = d.say(&conversation, "[[ask Which?|left|right]]", plan);
    let request = d.wait("a question", &|event| event.is("item/tool/requestUserInput"));
    assert_eq!(request.params["questions"][0]["options"][1]["label"], "right");
    d.answer(&request, json!({"answers": {"q1": {"answers": ["right"]}}}));
    assert!(completed(d, &turn).contains("right"));
}

/// `kill -9` in the middle of a turn: the conversation can be resumed and goes on.
pub(crate) fn crash_and_resume(d: &mut dyn Driver) {
    let conversation = d.open(json!({}));
    let first = d.say(&conversation, "remember this", json!({}));
    completed(d, &first);
    d.say(&conversation, "[[say-slow 5000 a b c]]", json!({}));
    d.wait("the first word", &|event| event.is("item/agentMessage/delta"));
    d.crash(&conversation);
    let next = d.say(&conversation, "and now?", json!({}));
    assert!(completed(d, &next).contains("and now?"));
}

/// A turn that waits for the user: the conversation, the turn, and the request.
fn ask(d: &mut dyn Driver, text: &str, method: &str) -> (String, String, Event) {
    let conversation = d.open(json!({"approvalPolicy": "untrusted"}));
    let turn = d.say(&conversation, text, json!({}));
    let request = d.wait(method, &|event| event.is(method));
    (conversation, turn, request)
}

/// Waits for the end of a turn, which must be a good one: the agent's last message, out of its item, for only new
/// versions repeat it at the end of the turn.
pub(crate) fn completed(d: &mut dyn Driver, turn: &str) -> String {
    ended(d, turn, "completed");
    let events = d.events();
    let mut said = events.iter().rev().filter(|event| event.is_item("item/completed", "agentMessage"));
    let last = said.find(|event| event.params["turnId"] == turn);
    last.map(|event| event.params["item"]["text"].as_str().unwrap().to_owned()).unwrap_or_default()
}

/// Waits for the end of a turn, which must have this status.
pub(crate) fn ended(d: &mut dyn Driver, turn: &str, status: &str) -> Value {
    let end = d.wait("the end of the turn", &|event| {
        event.is("turn/completed") && event.params["turn"]["id"] == turn
    });
    assert_eq!(end.params["turn"]["status"], status, "{}", end.params);
    let is_start = |event: &&Event| event.is("turn/started") && event.params["turn"]["id"] == turn;
    assert_eq!(d.events().iter().filter(is_start).count(), 1, "it started once");
    end.params["turn"].clone()
}

fn item_end(d: &mut dyn Driver, kind: &str) -> Value {
    let end = d.wait("the end of the item", &|event| event.is_item("item/completed", kind));
    end.params["item"].clone()
}
