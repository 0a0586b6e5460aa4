//! What is done to a turn that runs: interrupted, steered, waited for, asked for again, made to wait itself.

use super::*;

/// A session whose turn runs.
const BEGIN: &str = "up create#1 thread turn#2 accept#1 started#1";

fn begun() -> String {
    format!(
        "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start +turn.accepted 2:u1 \
         +app-server.turn.started"
    )
}

/// What follows on a turn that runs.
fn then(script: &str, expected: &str) -> Desk {
    check(&format!("{BEGIN} | {script}"), &format!("{} | {expected}", begun()))
}

#[test]
fn an_interrupt_is_held_until_the_turn_can_hear_it() {
    then(
        "interrupt#3 | told | cut#1",
        "+turn.interrupt_requested >turn/interrupt 3:session-feedc0de-5 |  | +app-server.turn.completed",
    );
    check(
        "up create#1 thread turn#2 | interrupt#3 | accept#1 | started#1 | deaf 99 | 1 | told | cut#1 | interrupt#4",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start | +turn.interrupt_requested \
             3:session-feedc0de-5 | +turn.accepted 2:u1 | +app-server.turn.started >turn/interrupt | | >turn/interrupt \
             | | +app-server.turn.completed | 4:conflict"
        ),
    );
    let desk = then(
        "interrupt#3 told cut#1",
        "+turn.interrupt_requested >turn/interrupt 3:session-feedc0de-5 +app-server.turn.completed",
    );
    let last = desk.core.state().sessions().next().unwrap().last.clone().unwrap();
    assert_eq!(last.error.as_deref(), Some("a caller asked for it"));
    assert_eq!(desk.core.deadline(), None, "nothing is left to do");
}

#[test]
fn a_turn_that_does_not_end_is_looked_up_and_a_child_that_does_not_end_it_is_ended() {
    let mut desk = then("interrupt#3", "+turn.interrupt_requested >turn/interrupt 3:session-feedc0de-5");
    continue_with(
        &mut desk,
        "told 2000 told 2000 told 2000",
        ">turn/interrupt >turn/interrupt >turn/interrupt",
    );
    continue_with(&mut desk, "told 2000 0 | over", ">turn/interrupt >thread/turns/list | +turn.settled");
    let mut desk = then("interrupt#3", "+turn.interrupt_requested >turn/interrupt 3:session-feedc0de-5");
    desk.seen.clear();
    for _ in 0..14 {
        desk.play("told");
        desk.play("2000");
    }
    assert!(desk.seen.ends_with(&["eof".to_owned()]), "{:?}", desk.seen);
}

#[test]
fn a_turn_has_the_deadline_that_its_caller_gives_it() {
    check(
        "up create#1 thread hurried#2 accept#1 started#1 | 999 | 1 | cut#1",
        &format!("{} | | +turn.interrupt_requested >turn/interrupt | +app-server.turn.completed", begun()),
    );
}

#[test]
fn a_session_is_closed_once_and_its_turn_ends() {
    then(
        "close#3 | turn#4 | close#5 | cut#1 | interrupt#6",
        "+session.closed +turn.interrupt_requested >turn/interrupt 3:session-feedc0de-5 | 4:conflict \
             | 5:session-feedc0de-5 | +app-server.turn.completed | 6:conflict",
    );
    // It was closed while its thread was being loaded.
    check(
        "up create#1 thread die up turn#2 | close#3 | resumed",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +child.exited spawn2 >initialize {UP} >thread/resume \
             | +session.closed 3:session-feedc0de-5 | 2:conflict"
        ),
    );
}

#[test]
fn whoever_waits_for_a_turn_is_answered_at_its_end() {
    then("wait#3 | done#1 | wait#4", "| +app-server.turn.completed 3:completed | 4:completed");
    then("wait#3 | 59999 | 1", " |  | 3:inProgress");
    then("wait#3 | die", "| +turn.interrupted 3:interrupted +child.exited spawn2 >initialize");
    check("up wait#3", &format!("{UP} 3:ok"));
}

#[test]
fn a_key_is_one_turn_and_one_answer() {
    let begin = "up create#1 thread keyed#2 keyed#3";
    let asked = format!("{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start");
    check(
        &format!("{begin} | accept#1 | keyed#4 | forged#5 | started#1 done#1 | keyed#6"),
        &format!(
            "{asked} | +turn.accepted 2:u1 3:u1 | 4:u1 | 5:conflict \
             | +app-server.turn.started +app-server.turn.completed | 6:u1"
        ),
    );
    // The first one waits for the child, the others for the first one.
    let mut desk = check(
        "up create#1 thread die",
        &format!("{UP} >thread/start +session.created {CREATED} +child.exited spawn2 >initialize"),
    );
    continue_with(
        &mut desk,
        "keyed#2 keyed#3 | up | resumed | accept#1",
        &format!(
            " | {UP} >thread/resume | +session.resumed +turn.requested >turn/start | +turn.accepted 2:u1 3:u1"
        ),
    );
    // It began, and nobody learned it.
    check(
        &format!("{begin} | started#1 die | up | keyed#4"),
        &format!(
            "{asked} | +app-server.turn.started 2:app_server_unavailable +turn.interrupted +child.exited \
             spawn2 >initialize 3:u1 | {UP} | 4:u1"
        ),
    );
    // What was refused may be tried again.
    check(
        &format!("{begin} | refuse | accept#1"),
        &format!(
            "{asked} | +turn.refused 2:app_server_error +turn.requested >turn/start | +turn.accepted 3:u1"
        ),
    );
    // What became of it is asked of the child first.
    let desk = check(
        &format!("{begin} | die | up | keyed#4 | over"),
        &format!(
            "{asked} | 2:app_server_unavailable +child.exited spawn2 >initialize | {UP} >thread/turns/list | \
             | +turn.accepted +turn.settled 3:u1 4:u1"
        ),
    );
    let mut next = Desk::new(desk.core.state().clone());
    next.seen.clear();
    continue_with(&mut next, "up keyed#7", &format!("{UP} 7:u1"));
}

#[test]
fn a_steering_waits_for_a_turn_that_is_deaf() {
    check(
        "up create#1 thread turn#2 accept#1 | steer#3 | started#1 | steered",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start +turn.accepted 2:u1 | \
             | +app-server.turn.started >turn/steer | +turn.steered 3:u1"
        ),
    );
}

#[test]
fn a_steering_without_an_answer_is_not_done_twice() {
    then(
        "keyedsteer#3 1 ~x 19999 | keyedsteer#4 | steered | keyedsteer#5",
        ">turn/steer +x 3:app_server_timeout | | +turn.steered 4:u1 | 5:u1",
    );
    then(
        "keyedsteer#3 1 ~x 19999 | keyedsteer#4 | 12000 | done#1 keyedsteer#5",
        ">turn/steer +x 3:app_server_timeout | | 4:app_server_timeout | +app-server.turn.completed 5:conflict",
    );
}

#[test]
fn an_overloaded_child_is_asked_again() {
    check(
        "up create#1 thread turn#2 | overloaded | 99 | 1 | accept#1",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start | | | >turn/start | +turn.accepted 2:u1"
        ),
    );
}

#[test]
fn an_approval_is_answered_once() {
    let desk = then(
        "command#7 | say#3=accept | say#4=accept",
        "+approval.requested | +approval.resolved >{\"decision\":\"accept\"} 3:ok | 4:conflict",
    );
    assert_eq!(desk.core.deadline(), None);
    then(
        "command#7 command#7 | say#3=answers | say#3=acceptWithExecpolicyAmendment",
        "+approval.requested | 3:invalid_request | +approval.resolved \
         >{\"decision\":{\"acceptWithExecpolicyAmendment\":{\"execpolicy_amendment\":[\"touch\"]}}} 3:ok",
    );
    then(
        "question#7 | say#3=accept say#3=nothing say#3=other | say#4=answers",
        "+approval.requested | 3:invalid_request 3:invalid_request 3:invalid_request | +approval.resolved >{\"answers\":{\"q\":{\"answers\":[\"B\"]}}} 4:ok",
    );
    then("question#7 | say#3=decline", "+approval.requested | +approval.resolved >refusal 3:ok");
    let desk = then("item#i1 patch#7", "+app-server.item.started +approval.requested");
    let pending = desk.core.state().approvals().pending().next().unwrap().clone();
    assert_eq!(pending.asked.request["changes"], json!(["a.txt"]), "the request itself does not say them");
    assert!(desk.core.read(&Call::Approvals).is_some());
}

#[test]
fn an_approval_that_nobody_answers_is_declined_and_with_its_turn_it_is_lost() {
    then("command#7 | 599999 | 1", "+approval.requested | | +approval.resolved >{\"decision\":\"decline\"}");
    then(
        "command#7 die | say#3=accept",
        "+approval.requested +approval.resolved +turn.interrupted +child.exited spawn2 >initialize | 3:conflict",
    );
    then(
        "command#7 interrupt#3 | cut#1",
        "+approval.requested +turn.interrupt_requested +approval.resolved >turn/interrupt 3:session-feedc0de-5 \
         | +app-server.turn.completed",
    );
    let desk = then("command#7", "+approval.requested");
    let next = Desk::new(desk.core.state().clone());
    assert_eq!(next.seen.join(" "), "+daemon.started +child.exited +approval.resolved spawn2 >initialize");
}

#[test]
fn too_many_approvals_are_declined() {
    let mut desk = then("", "");
    for id in 0..crate::approvals::MAX_APPROVALS {
        desk.play(&format!("command#{}", 1000 + id));
    }
    continue_with(
        &mut desk,
        "command#9",
        "+approval.requested +approval.resolved >{\"decision\":\"decline\"}",
    );
}

#[test]
fn what_began_and_never_ended_is_closed_with_its_turn() {
    then(
        "item#f1 item#c1 item#f2 itemdone#f2 | done#1 | itemdone#c1",
        "+app-server.item.started +app-server.item.started +app-server.item.started +app-server.item.completed \
         | +item.closed +app-server.turn.completed | +app-server.item.completed",
    );
    then(
        "item#c1 die",
        "+app-server.item.started +item.closed +turn.interrupted +child.exited spawn2 >initialize",
    );
}

#[test]
fn a_line_that_was_dropped_may_have_been_the_end_of_a_turn() {
    then("drop | over", "+child.line_dropped >thread/turns/list | +turn.settled");
}

#[test]
fn an_app_server_of_somebody_else_may_go_on_without_codexd() {
    let mut desk = Desk::new(State::default());
    desk.core.birth.rules.external = true;
    continue_with(
        &mut desk,
        &format!("{BEGIN} command#7 | die | turn#3 | up | resumed | running | done#1"),
        &format!(
            "{} +approval.requested | +approval.resolved +child.exited spawn2 >initialize | | {UP} >thread/resume \
             | >thread/turns/list | 3:conflict | +app-server.turn.completed",
            begun()
        ),
    );
}

#[test]
fn transcripts_go_to_make_room_but_for_those_of_turns_that_run() {
    let desk = check(
        "up create#1 thread crowd | turn#2 crowd accept#1 crowd | done#1 crowd",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +transcript.removed forget \
             | +turn.requested >turn/start +turn.accepted 2:u1 | +app-server.turn.completed +transcript.removed forget"
        ),
    );
    let session = desk.core.state().sessions().next().unwrap();
    assert_eq!(session.transcript_from, desk.core.state().seq(), "its reader is told so");
}

#[test]
fn an_answer_that_comes_after_the_end_of_its_turn_is_not_taken_for_anothers() {
    check(
        "up create#1 thread turn#2 | started#1 done#1 turn#3 | accept#1 | turn#4 | accept#2",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start | +app-server.turn.started \
             +app-server.turn.completed 3:conflict | +turn.accepted 2:u1 | +turn.requested >turn/start \
             | +turn.accepted 4:u2"
        ),
    );
}

#[test]
fn a_turn_counts_once_by_how_it_ended_first() {
    let mut desk = Desk::new(State::default());
    let play = |desk: &mut Desk, script: &str| script.split_whitespace().for_each(|word| desk.play(word));
    play(&mut desk, "up create#1 thread turn#2 accept#1 started#1 done#1 done#1 cut#1");
    assert_eq!(desk.ended, [TurnStatus::Completed]);
    play(&mut desk, "turn#3 refuse turn#4 accept#2 started#2 cut#2");
    assert_eq!(desk.ended[1..], [TurnStatus::Interrupted], "one that was refused never was");
    play(&mut desk, "turn#5 accept#3 started#3");
    assert_eq!(desk.core.state().running_count(), 1);
    play(&mut desk, "close#6 close#7 die");
    assert_eq!((desk.core.state().running_count(), desk.ended.len()), (0, 3), "{:?}", desk.ended);
}
