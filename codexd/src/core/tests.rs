//! The step, told as text: what comes in, what must come out.

use super::*;
use common::time::Timestamp;
use serde_json::{Map, json};

use crate::app_server::protocol::RpcError;

use crate::state::Key;

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
        rules: Rules {
            external: false,
            approval_timeout: Duration::from_secs(600),
            ceilings: Arc::default(),
        },
    }
}

/// A core, the lines that it has written, and what it asked of its child under which number.
struct Desk {
    core: Core,
    log: Vec<String>,
    mono: u64,
    asked: Vec<(u64, String)>,
    seen: Vec<String>,
    /// The approval that was answered last.
    approval: Option<String>,
    /// What it took up.
    born: State,
}

impl Desk {
    fn new(state: State) -> Desk {
        let core = Core::new(state.clone(), birth(&state));
        let mut desk = Desk {
            core,
            log: Vec::new(),
            mono: 0,
            asked: Vec::new(),
            seen: Vec::new(),
            approval: None,
            born: state,
        };
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
            Effect::Append { line, .. } => {
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
                Ok(Reply::Session { seen, .. }) => format!("{id}:{}", seen.session.id),
                Ok(Reply::TurnSeen(Some(session))) => {
                    let status = session.last.as_ref().map(|last| last.status);
                    format!("{id}:{}", serde_json::to_value(status).unwrap().as_str().unwrap())
                }
                Ok(_) => format!("{id}:ok"),
                Err(error) => format!("{id}:{}", error.code.name),
            },
            Effect::Spawn(epoch) => {
                self.asked.clear();
                format!("spawn{epoch}")
            }
            Effect::Send { message, .. } => match (message["method"].as_str(), message["id"].as_u64()) {
                (Some(method), Some(rpc)) => {
                    self.asked.push((rpc, method.to_owned()));
                    format!(">{method}")
                }
                (Some(method), None) => format!(">{method}"),
                (None, _) if message["error"].is_object() => ">refusal".to_owned(),
                (None, _) => format!(">{}", message["result"]),
            },
            Effect::CloseStdin(_) => "eof".into(),
            Effect::Signal { signal, .. } => format!("{signal:?}").to_lowercase(),
            Effect::Checkpointed(_) => return None,
            Effect::Forget { .. } => "forget".into(),
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

    fn first_session(&self) -> String {
        self.core.state().sessions().next().map_or("session-x".to_owned(), |session| session.id.clone())
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
                    key: None,
                };
                self.step(Input::Call { id, call: Call::Work(Work::Create(Box::new(create))) });
            }
            "turn" | "steer" | "keyed" | "forged" | "hurried" | "keyedsteer" => {
                let key = |body: &str| Some(Key { hash: "k".into(), body: body.into() });
                let turn = StartTurn {
                    session_id: self.first_session(),
                    input: json!([]),
                    expected_turn_id: word.ends_with("steer").then(|| "u1".to_owned()),
                    params: Map::new(),
                    timeout_ms: (word == "hurried").then_some(1000),
                    key: match word {
                        "keyed" | "keyedsteer" => key("b"),
                        "forged" => key("c"),
                        _ => None,
                    },
                };
                self.step(Input::Call { id, call: Call::Work(Work::StartTurn(Box::new(turn))) });
            }
            "wait" => {
                let call = Call::Turn { id: "u1".into(), wait: Duration::from_secs(60) };
                self.step(Input::Call { id, call });
            }
            "interrupt" => self.step(Input::Call { id, call: Call::Interrupt { id: self.first_session() } }),
            "close" => self.step(Input::Call { id, call: Call::Close { id: self.first_session() } }),
            "told" => self.answer("turn/interrupt", Ok(json!({}))),
            "deaf" => self.answer("turn/interrupt", Err(refused("no active turn to interrupt"))),
            "overloaded" => self.answer("turn/start", Err(RpcError::overloaded())),
            "command" | "patch" | "question" => {
                let method = match word {
                    "command" => "item/commandExecution/requestApproval",
                    "patch" => "item/fileChange/requestApproval",
                    _ => "item/tool/requestUserInput",
                };
                let detail = json!({"threadId": "t1", "turnId": "u1", "itemId": "i1",
                    "proposedExecpolicyAmendment": ["touch"], "questions": [{"id": "q"}]});
                let notice = Notice::new(method.into(), detail.as_object().unwrap().clone());
                self.child(FromChild::Asked { id: json!(number), notice: Box::new(notice) });
                let pending = self.core.state().approvals().pending().next();
                self.approval = pending.map(|approval| approval.asked.approval_id.clone());
            }
            "say" => {
                let (number, decision) = number.split_once('=').unwrap();
                let given = match decision {
                    "answers" => Given::Answers(json!({"q": "B"}).as_object().unwrap().clone()),
                    "nothing" => Given::Answers(Map::new()),
                    "other" => Given::Answers(json!({"zz": "B"}).as_object().unwrap().clone()),
                    word => Given::Decision(word.into()),
                };
                let answer = Answer { id: self.approval.clone().unwrap_or_default(), given };
                self.step(Input::Call { id: number.parse().unwrap(), call: Call::Answer(answer) });
            }
            "item" | "itemdone" => {
                let method = if word == "item" { "item/started" } else { "item/completed" };
                let kind = if number.starts_with('c') { "commandExecution" } else { "fileChange" };
                let item = json!({"id": number, "type": kind, "changes": ["a.txt"]});
                self.notice(method, json!({"threadId": "t1", "turnId": "u1", "item": item}));
            }
            "cut" => {
                let turn = json!({"id": format!("u{number}"), "status": "interrupted"});
                self.notice("turn/completed", json!({"threadId": "t1", "turn": turn}));
            }
            "drop" => self.child(FromChild::LineDropped { bytes: 9 }),
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
            "alive" => self.answer("account/read", Ok(json!({}))),
            "refuse" => self.answer("turn/start", Err(refused("no"))),
            "steered" => self.answer("turn/steer", Ok(json!({"turnId": "u1"}))),
            "started" => {
                self.notice("turn/started", json!({"threadId": "t1", "turn": {"id": format!("u{number}")}}))
            }
            "done" => {
                let turn = json!({"id": format!("u{number}"), "status": "completed"});
                self.notice("turn/completed", json!({"threadId": "t1", "turn": turn}));
            }
            "ask" => {
                let notice = Box::new(Notice::new("x/y".into(), Map::new()));
                self.child(FromChild::Asked { id: json!(0), notice });
            }
            "crowd" => {
                let chosen = [self.first_session(), "session-x-1".to_owned()];
                self.step(Input::TranscriptsOver(chosen.map(|id| (id, 5)).into()));
            }
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
    let mut replayed = desk.born.clone();
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
