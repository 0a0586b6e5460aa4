//! The child and its sessions, from their beginnings to their ends.

use super::*;

#[test]
fn a_turn_goes_its_way() {
    check(
        "up | create#1 | thread | turn#2 | accept#1 | started#1 | done#1 | turn#3 accept#2",
        &format!(
            "{UP} | >thread/start | +session.created {CREATED} | +turn.requested >turn/start | +turn.accepted 2:u1 \
             | +app-server.turn.started | +app-server.turn.completed | +turn.requested >turn/start +turn.accepted 3:u2"
        ),
    );
}

#[test]
fn a_call_waits_for_a_child_that_is_not_up_and_no_longer() {
    check("create#1 | up | thread", &format!(" | {UP} >thread/start | +session.created {CREATED}"));
    check("create#1 | 9000 | 3000", " | | 1:app_server_unavailable kill");
}

#[test]
fn a_request_that_is_not_answered_is_given_up() {
    let begun = format!("{UP} >thread/start");
    check("up create#1 | 19999 | 1", &format!("{begun} | | >account/read 1:app_server_timeout"));
    // A child that says nothing at all to that is sick, and one that answers is not.
    check(
        "up create#1 20000 | 4999 | 1 | die",
        &format!("{begun} >account/read 1:app_server_timeout | | kill | +child.exited spawn2 >initialize"),
    );
    check("up create#1 20000 alive 5000", &format!("{begun} >account/read 1:app_server_timeout"));
}

#[test]
fn a_call_has_one_deadline_whatever_it_needs() {
    // 9 s for the child to come up, 15 s to load the thread: four are left for the turn itself.
    check(
        "up create#1 thread die up die | turn#2 | 1000 | 8000 up | 15000 resumed | 3999 | 1",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +child.exited spawn2 >initialize {UP} +child.exited | \
             | spawn3 >initialize | {UP} >thread/resume | +session.resumed +turn.requested >turn/start | \
             | >account/read 2:app_server_timeout >thread/turns/list"
        ),
    );
}

#[test]
fn what_became_of_a_turn_without_an_answer_is_asked_of_the_child() {
    let begin = "up create#1 thread turn#2 1 ~x 19999";
    let begun = format!(
        "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start +x \
         2:app_server_timeout >thread/turns/list"
    );
    let goes_on = |script: &str, expected: &str| {
        check(&format!("{begin} | turn#3 | {script}"), &format!("{begun} | 3:conflict | {expected}"));
    };
    goes_on("running | done#1", "+turn.accepted | +app-server.turn.completed");
    goes_on("over", "+turn.accepted +turn.settled");
    goes_on("absent | turn#4", "+turn.refused | +turn.requested >turn/start");
    goes_on("busy 999 | 1 | absent", " | >thread/turns/list | +turn.refused");
    goes_on("accept#1 | over", "+turn.accepted | ");
    goes_on("nolist | whole", ">thread/read | +turn.accepted");
}

#[test]
fn a_busy_session_takes_no_second_turn_but_a_steering() {
    let begin = "up create#1 thread turn#2 accept#1 started#1";
    let begun = format!(
        "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start +turn.accepted 2:u1 \
         +app-server.turn.started"
    );
    check(
        &format!("{begin} | turn#3 | steer#4 | steered"),
        &format!("{begun} | 3:conflict | >turn/steer | +turn.steered 4:u1"),
    );
    check(&format!("{begin} done#1 | steer#4"), &format!("{begun} +app-server.turn.completed | 4:conflict"));
}

#[test]
fn the_death_of_the_child_answers_and_settles_at_once() {
    let begin = "up create#1 thread turn#2 accept#1 started#1";
    let mut desk = check(
        &format!("{begin} | die | 0 | up | turn#4 | resumed | accept#2"),
        &format!(
            "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start +turn.accepted 2:u1 \
             +app-server.turn.started | +turn.interrupted +child.exited spawn2 >initialize |  | {UP} | >thread/resume \
             | +session.resumed +turn.requested >turn/start | +turn.accepted 4:u2"
        ),
    );
    assert_eq!(desk.core.state().child().restarts, 1);
    desk.seen.clear();
    desk.play("die");
    assert_eq!(
        desk.seen.join(" "),
        "+turn.interrupted +child.exited",
        "the second one in a row waits a second"
    );
    continue_with(&mut desk, "999 | 1", " | spawn3 >initialize");
}

#[test]
fn a_caller_that_waits_is_answered_when_the_child_dies() {
    check(
        "up create#1 | die",
        &format!("{UP} >thread/start | 1:app_server_unavailable +child.exited spawn2 >initialize"),
    );
}

#[test]
fn a_session_without_a_turn_is_begun_anew() {
    let desk = check(
        "up create#1 thread die up turn#2 | norollout | thread | accept#1",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +child.exited spawn2 >initialize {UP} >thread/resume \
             | >thread/start | +session.resumed +turn.requested >turn/start | +turn.accepted 2:u1"
        ),
    );
    let session = desk.core.state().sessions().next().unwrap();
    assert_eq!(session.origin["developerInstructions"], "be brief", "they are told again");
}

#[test]
fn what_a_session_may_do_is_restated() {
    let mut desk = check(
        "up create#1 thread turn#2 accept#1 done#1 die up",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start +turn.accepted 2:u1 \
             +app-server.turn.completed +child.exited spawn2 >initialize {UP}"
        ),
    );
    let session = desk.core.state().sessions().next().unwrap().clone();
    let (_, params) = protocol::thread_resume(&session);
    assert_eq!(
        Value::Object(params),
        json!({"threadId": "t1", "excludeTurns": true, "cwd": "/w", "model": "m", "approvalPolicy": "never",
            "sandbox": "workspace-write"})
    );
    // The child forgets what a workspace may write: the next turn says it in full.
    desk.play("turn#3");
    let mut answer =
        json!({"thread": {"id": "t1"}, "sandbox": {"type": "workspaceWrite", "writableRoots": []}});
    answer["approvalPolicy"] = json!("on-request");
    let mut out = Vec::new();
    let rpc = desk.asked.last().unwrap().0;
    let input = Input::Child { epoch: 2, event: FromChild::Answer { rpc, result: Ok(answer) } };
    desk.core.step(Now { mono: Duration::ZERO, wall: Timestamp::from_millis(2_000_000) }, input, &mut out);
    let sent = out.iter().find_map(|effect| match effect {
        Effect::Send { message, .. } => Some(message["params"]["sandboxPolicy"].clone()),
        _ => None,
    });
    assert_eq!(sent, Some(json!({"type": "workspaceWrite", "writableRoots": ["/r"]})));
    let session = desk.core.state().sessions().next().unwrap();
    assert_eq!(session.settings.approval_policy, "never", "nor does it get to widen the policy");
}

#[test]
fn a_configuration_that_does_not_load_is_fatal_and_so_is_an_old_child() {
    check(
        "badconfig | die | create#1 | 60000",
        ">initialized >config/read >account/read eof | +child.failed | 1:app_server_unavailable | spawn2 >initialize",
    );
    let desk = check("old | die", ">initialized >config/read >account/read eof | +child.failed");
    let error = desk.core.state().child().last_error.clone().unwrap();
    assert_eq!(error, "codex 0.92.0 is too old; install @openai/codex 0.101.0 or newer");
    let mut desk = check("", "");
    desk.answer("initialize", Ok(json!({"userAgent": "x"})));
    desk.seen.clear();
    desk.notice(
        "configWarning",
        json!({"summary": "Invalid configuration; using defaults.", "details": "line 1"}),
    );
    assert_eq!(desk.seen.join(" "), "eof +app-server.configWarning");
}

#[test]
fn five_deaths_in_five_minutes_are_a_crash_loop() {
    let mut desk = check("die", "+child.exited spawn2 >initialize");
    continue_with(
        &mut desk,
        "die 1000 | die 2000 | die 4000",
        "+child.exited spawn3 >initialize | +child.exited spawn4 >initialize | +child.exited spawn5 >initialize",
    );
    continue_with(
        &mut desk,
        "create#9 | die | create#8 | 59999 | 1",
        " | +child.failed 9:app_server_unavailable | 8:app_server_unavailable | | spawn6 >initialize",
    );
}

#[test]
fn a_handshake_that_does_not_end_is_ended() {
    check("10000 | die", "kill | +child.exited spawn2 >initialize");
}

#[test]
fn a_turn_may_begin_and_end_before_the_answer_that_names_it() {
    let begin = "up create#1 thread turn#2";
    let begun = format!("{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start");
    for early in ["started#1 done#1", "done#1"] {
        let told = if early == "done#1" { "" } else { "+app-server.turn.started " };
        let desk = check(
            &format!("{begin} | {early} accept#1 | turn#3"),
            &format!(
                "{begun} | {told}+app-server.turn.completed +turn.accepted 2:u1 | +turn.requested >turn/start"
            ),
        );
        let last = desk.core.state().sessions().next().unwrap().last.clone().unwrap();
        assert_eq!((last.id.as_str(), last.status), ("u1", crate::state::TurnStatus::Completed));
    }
    check(
        &format!("{begin} | started#1 accept#1 | turn#3 | done#1"),
        &format!(
            "{begun} | +app-server.turn.started +turn.accepted 2:u1 | 3:conflict | +app-server.turn.completed"
        ),
    );
}

#[test]
fn what_codexd_does_not_know_is_refused() {
    check("up ask", &format!("{UP} >refusal +child.request_refused"));
}

#[test]
fn deltas_are_merged_and_nothing_of_the_turn_overtakes_them() {
    check(
        "up create#1 thread turn#2 accept#1 | ~a ~b ~c 49 | 1 | ~d ~e done#1",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start +turn.accepted 2:u1 | +a | +bc \
         | +de +app-server.turn.completed"
        ),
    );
}

#[test]
fn lines_of_a_child_that_was_replaced_are_stale() {
    let mut desk = check("up die", &format!("{UP} +child.exited spawn2 >initialize"));
    desk.seen.clear();
    let notice = Notice::new("x".into(), Map::new());
    desk.step(Input::Child { epoch: 1, event: FromChild::Notice(Box::new(notice)) });
    assert_eq!(desk.seen.join(" "), "");
}

#[test]
fn stopping_ends_the_child_first_ever_less_kindly() {
    check("up stop | die", &format!("{UP} eof | +child.exited +daemon.stopping exit"));
    check(
        "up stop 3000 2000 | create#1 | 3000",
        &format!("{UP} eof term kill | 1:app_server_unavailable | +child.exited +daemon.stopping exit"),
    );
}

#[test]
fn the_next_process_settles_what_the_last_one_left() {
    let desk = check(
        "up create#1 thread turn#2 accept#1 started#1",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start +turn.accepted 2:u1 \
         +app-server.turn.started"
        ),
    );
    let mut next = Desk::new(desk.core.state().clone());
    assert_eq!(next.seen.join(" "), "+daemon.started +child.exited spawn2 >initialize");
    // What it came to may be known to the child, whose last words were lost with codexd.
    continue_with(
        &mut next,
        "wait#8 | up | turn#9 | running | resumed",
        &format!(
            " | {UP} >thread/turns/list | | +turn.interrupted 8:interrupted >thread/resume | +session.resumed +turn.requested >turn/start"
        ),
    );
    let mut next = Desk::new(desk.core.state().clone());
    next.seen.clear();
    continue_with(
        &mut next,
        "up | die | up | over",
        &format!(
            "{UP} >thread/turns/list | +child.exited spawn3 >initialize | {UP} >thread/turns/list | +turn.settled"
        ),
    );
    let mut next = Desk::new(desk.core.state().clone());
    continue_with(&mut next, "up running", &format!("{UP} >thread/turns/list +turn.interrupted"));
    let session = next.core.state().sessions().next().unwrap();
    assert_eq!(session.last.as_ref().unwrap().error.as_deref(), Some("codexd ended"));
}

#[test]
fn sessions_are_bounded_and_the_oldest_idle_one_goes() {
    let mut desk = check("up", UP);
    desk.core.max_sessions = 2;
    let create = |id: u64, thread: &str, desk: &mut Desk| {
        desk.seen.clear();
        desk.play(&format!("create#{id}"));
        if desk.seen == [">thread/start"] {
            desk.answer("thread/start", Ok(json!({"thread": {"id": thread}})));
        }
        desk.seen.join(" ")
    };
    assert_eq!(create(1, "t1", &mut desk), format!(">thread/start +session.created {CREATED}"));
    desk.play("turn#9"); // the oldest one is busy
    assert_eq!(create(2, "t2", &mut desk), ">thread/start +session.created 2:session-feedc0de-7");
    assert_eq!(
        create(3, "t3", &mut desk),
        ">thread/start +session.closed +session.removed forget +session.created 3:session-feedc0de-10"
    );
    let ids: Vec<_> = desk.core.state().sessions().map(|session| session.id.clone()).collect();
    assert_eq!(ids, ["session-feedc0de-5", "session-feedc0de-10"]);
    desk.core.live.starting.insert(10);
    assert_eq!(create(4, "t4", &mut desk), "4:too_many_requests");
    continue_with(&mut desk, "", "");
}

#[test]
fn in_flight_requests_are_bounded() {
    let mut desk = check("up", UP);
    for id in 0..80 {
        desk.play(&format!("create#{id}"));
    }
    assert_eq!((desk.core.callers().count(), desk.core.live.parked.len()), (80, 80 - MAX_IN_FLIGHT));
    desk.answer("thread/start", Err(RpcError { code: -1, message: "no".into() }));
    assert_eq!((desk.core.callers().count(), desk.core.live.parked.len()), (79, 79 - MAX_IN_FLIGHT));
}
