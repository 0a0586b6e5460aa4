//! The step, told as text: what comes in, what must come out.

use super::*;
use common::time::Timestamp;
use serde_json::json;

fn birth(state: &State) -> Birth {
    Birth {
        new_log_id: state.log_id().is_empty().then(|| "feedc0de00000000".to_owned()),
        next: state.seq() + 1,
        past: "codexd ended",
        epoch_floor: 0,
        pid: 1,
        process_mark: "mark".into(),
        process_started_at: Timestamp::default(),
        version: "0".into(),
    }
}

/// A core, the lines that it has written, and what it asked of its child under which number.
struct Desk {
    core: Core,
    log: Vec<String>,
    mono: u64,
    asked: Vec<(u64, String)>,
    seen: Vec<String>,
}

impl Desk {
    fn new(state: State) -> Desk {
        let core = Core::new(state.clone(), birth(&state));
        let mut desk = Desk { core, log: Vec::new(), mono: 0, asked: Vec::new(), seen: Vec::new() };
        desk.step(Input::Start);
        desk
    }

    fn step(&mut self, input: Input) {
        let now = Now {
            mono: Duration::from_millis(self.mono),
            wall: Timestamp::from_millis(1_000_000 + self.mono),
        };
        let mut out = Vec::new();
        self.core.step(now, input, &mut out);
        for effect in out {
            if let Some(word) = self.word(effect) {
                self.seen.push(word);
            }
        }
    }

    /// An effect in a few words: `+type` is a line of the log.
    fn word(&mut self, effect: Effect) -> Option<String> {
        Some(match effect {
            Effect::Append(line) => {
                let event: Value = serde_json::from_str(&line).unwrap();
                self.log.push(line);
                let kind = event["type"].as_str().unwrap().to_owned();
                match event["detail"]["delta"].as_str() {
                    Some(delta) => format!("+{delta}"),
                    None => format!("+{kind}"),
                }
            }
            Effect::Reply { id, outcome } => match outcome {
                Ok(Reply::Turn { turn_id, .. }) => format!("{id}:{turn_id}"),
                Ok(Reply::Session(seen)) => format!("{id}:{}", seen.session.id),
                Ok(_) => format!("{id}:ok"),
                Err(error) => format!("{id}:{}", error.code.name),
            },
            Effect::Spawn(epoch) => format!("spawn{epoch}"),
            Effect::Send { message, .. } => match (message["method"].as_str(), message["id"].as_u64()) {
                (Some(method), Some(rpc)) => {
                    self.asked.push((rpc, method.to_owned()));
                    format!(">{method}")
                }
                (Some(method), None) => format!(">{method}"),
                (None, _) => ">answer".to_owned(),
            },
            Effect::CloseStdin(_) => "eof".into(),
            Effect::Signal { signal, .. } => format!("{signal:?}").to_lowercase(),
            Effect::Checkpointed(_) => return None,
            Effect::Exit => "exit".into(),
        })
    }

    fn child(&mut self, event: FromChild) {
        let epoch = self.core.live.child.epoch().unwrap_or(0);
        self.step(Input::Child { epoch, event });
    }

    /// The child answers the oldest request of this method.
    fn answer(&mut self, method: &str, result: Result<Value, RpcError>) {
        let at =
            self.asked.iter().position(|(_, asked)| asked == method).unwrap_or_else(|| panic!("no {method}"));
        let (rpc, _) = self.asked.remove(at);
        self.child(FromChild::Answer { rpc, result });
    }

    fn notice(&mut self, method: &str, detail: Value) {
        let notice = Notice::new(method.to_owned(), detail.as_object().unwrap().clone());
        self.child(FromChild::Notice(Box::new(notice)));
    }

    /// One word of a script.
    fn play(&mut self, word: &str) {
        let thread = json!({"thread": {"id": "t1", "ephemeral": false}, "cwd": "/w", "approvalPolicy": "never",
            "sandbox": {"type": "workspaceWrite", "writableRoots": ["/r"]}, "model": "m"});
        let refused = |message: &str| RpcError { code: -32600, message: message.into() };
        let (word, number) = word.split_once('#').unwrap_or((word, "0"));
        let id = number.parse().unwrap_or(0);
        match word {
            "up" => {
                self.child(FromChild::Spawned { pid: 7, process_mark: "m".into() });
                self.answer("initialize", Ok(json!({"userAgent": "codexd/0.169.0 (x)"})));
                self.answer("config/read", Ok(json!({})));
                self.answer("account/read", Ok(json!({"account": null, "requiresOpenaiAuth": false})));
            }
            "old" => {
                self.answer("initialize", Ok(json!({"userAgent": "codexd/0.92.0 (x)"})));
                self.answer("config/read", Ok(json!({})));
                self.answer("account/read", Err(refused("unknown variant")));
            }
            "badconfig" => {
                self.answer("initialize", Ok(json!({"userAgent": "x"})));
                self.answer("config/read", Err(RpcError { code: -32603, message: "bad toml".into() }));
            }
            "create" => {
                let params = json!({"sandbox": "workspace-write", "developerInstructions": "be brief"});
                let create = Create {
                    purpose: "duplex".into(),
                    metadata: Value::Null,
                    thread_id: None,
                    params: params.as_object().unwrap().clone(),
                };
                self.step(Input::Call { id, call: Call::Create(Box::new(create)) });
            }
            "turn" | "steer" => {
                let session_id =
                    self.core.state().sessions().next().map(|s| s.id.clone()).unwrap_or("session-x".into());
                let expected_turn_id = (word == "steer").then(|| "u1".to_owned());
                let turn = StartTurn { session_id, input: json!([]), expected_turn_id, params: Map::new() };
                self.step(Input::Call { id, call: Call::StartTurn(Box::new(turn)) });
            }
            "thread" => self.answer("thread/start", Ok(thread)),
            "resumed" => self.answer("thread/resume", Ok(thread)),
            "norollout" => self.answer("thread/resume", Err(refused("no rollout found for thread id t1"))),
            "accept" => self.answer("turn/start", Ok(json!({"turn": {"id": format!("u{number}")}}))),
            "running" => {
                self.answer("thread/turns/list", Ok(json!({"data": [{"id": "u1", "status": "inProgress"}]})))
            }
            "over" => {
                self.answer("thread/turns/list", Ok(json!({"data": [{"id": "u1", "status": "failed"}]})))
            }
            "absent" => self.answer("thread/turns/list", Ok(json!({"data": []}))),
            "busy" => self.answer("thread/turns/list", Err(refused("Server overloaded; retry later."))),
            "nolist" => self.answer("thread/turns/list", Err(refused("unknown variant `thread/turns/list`"))),
            "whole" => {
                let turns =
                    json!([{"id": "u0", "status": "completed"}, {"id": "u1", "status": "inProgress"}]);
                self.answer("thread/read", Ok(json!({"thread": {"turns": turns}})));
            }
            "refuse" => self.answer("turn/start", Err(refused("no"))),
            "steered" => self.answer("turn/steer", Ok(json!({"turnId": "u1"}))),
            "started" => {
                self.notice("turn/started", json!({"threadId": "t1", "turn": {"id": format!("u{number}")}}))
            }
            "done" => {
                let turn = json!({"id": format!("u{number}"), "status": "completed"});
                self.notice("turn/completed", json!({"threadId": "t1", "turn": turn}));
            }
            "ask" => self.child(FromChild::Asked {
                id: json!(0),
                method: "x/y".into(),
                thread_id: None,
                turn_id: None,
            }),
            "die" => self.child(FromChild::Exited { reason: "exit code 1".into() }),
            "stop" => self.step(Input::Stop("SIGTERM")),
            delta if delta.starts_with('~') => {
                let detail = json!({"threadId": "t1", "turnId": "u1", "itemId": "i", "delta": &delta[1..]});
                self.notice("item/agentMessage/delta", detail);
            }
            wait => {
                self.mono += wait.parse::<u64>().unwrap_or_else(|_| panic!("{wait}"));
                self.step(Input::Tick);
            }
        }
    }
}

/// Plays `script` on a new core and compares what it did after its start; `|` ends a part of both.
fn check(script: &str, expected: &str) -> Desk {
    let mut desk = Desk::new(State::default());
    assert_eq!(desk.seen.join(" "), "+log.created +daemon.started spawn1 >initialize");
    continue_with(&mut desk, script, expected);
    desk
}

fn continue_with(desk: &mut Desk, script: &str, expected: &str) {
    for (part, expected) in script.split('|').zip(expected.split('|')) {
        desk.seen.clear();
        part.split_whitespace().for_each(|word| desk.play(word));
        assert_eq!(desk.seen.join(" "), expected.trim(), "after `{part}` of `{script}`");
    }
    assert_eq!(script.split('|').count(), expected.split('|').count());
    let mut replayed = State::default();
    desk.log.iter().for_each(|line| replayed.apply(&event::parse(line).unwrap()));
    assert_eq!(&replayed, desk.core.state(), "the log alone makes the same state");
}

const UP: &str = "+child.spawned >initialized >config/read >account/read +child.ready";
const CREATED: &str = "1:session-feedc0de-5";

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
    check("up create#1 | 19999 | 1", &format!("{UP} >thread/start | | 1:app_server_timeout"));
}

#[test]
fn a_call_has_one_deadline_whatever_it_needs() {
    // 9 s for the child to come up, 15 s to load the thread: four are left for the turn itself.
    check(
        "up create#1 thread die up die | turn#2 | 1000 | 8000 up | 15000 resumed | 3999 | 1",
        &format!(
            "{UP} >thread/start +session.created {CREATED} +child.exited spawn2 >initialize {UP} +child.exited | \
             | spawn3 >initialize | {UP} >thread/resume | +session.resumed +turn.requested >turn/start | \
             | >thread/turns/list 2:app_server_timeout"
        ),
    );
}

#[test]
fn what_became_of_a_turn_without_an_answer_is_asked_of_the_child() {
    let begin = "up create#1 thread turn#2 | 20000";
    let begun = format!(
        "{UP} >thread/start +session.created {CREATED} +turn.requested >turn/start \
         | >thread/turns/list 2:app_server_timeout"
    );
    let goes_on = |script: &str, expected: &str| {
        check(&format!("{begin} | turn#3 | {script}"), &format!("{begun} | 3:conflict | {expected}"));
    };
    goes_on("running | done#1", "+turn.accepted | +app-server.turn.completed");
    goes_on("over", "+turn.accepted +turn.settled");
    goes_on("absent | turn#4", "+turn.refused | +turn.requested >turn/start");
    goes_on("busy 999 | 1 | absent", " | >thread/turns/list | +turn.refused");
    goes_on("20000 | over over", ">thread/turns/list | +turn.accepted +turn.settled");
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
    check("up ask", &format!("{UP} >answer +child.request_refused"));
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
    let next = Desk::new(desk.core.state().clone());
    assert_eq!(next.seen.join(" "), "+daemon.started +child.exited +turn.interrupted spawn2 >initialize");
    let session = next.core.state().sessions().next().unwrap();
    assert_eq!(
        (session.turn.is_none(), session.last.as_ref().unwrap().error.as_deref()),
        (true, Some("codexd ended"))
    );
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
        ">thread/start +session.closed +session.removed +session.created 3:session-feedc0de-10"
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
    assert_eq!((desk.core.live.rpcs.len(), desk.core.live.parked.len()), (MAX_IN_FLIGHT, 80 - MAX_IN_FLIGHT));
    desk.answer("thread/start", Err(RpcError { code: -1, message: "no".into() }));
    assert_eq!((desk.core.live.rpcs.len(), desk.core.live.parked.len()), (MAX_IN_FLIGHT, 79 - MAX_IN_FLIGHT));
}
