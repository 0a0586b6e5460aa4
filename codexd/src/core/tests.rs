//! The step, told as text: what comes in, what must come out.

use super::*;
use common::time::Timestamp;
use serde_json::{Map, json};

use crate::app_server::protocol::RpcError;

use crate::state::{Key, TurnStatus};

mod lives;
mod running;

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
    /// How turns ended, as it is counted.
    ended: Vec<TurnStatus>,
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
            ended: Vec::new(),
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
            Effect::Append { line, ended, .. } => {
                self.ended.extend(ended);
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
