//! The child as the simulation has it: what it has stored outlives it, what it says arrives later or never.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::Random;
use crate::app_server::protocol::RpcError;
use crate::core::{Epoch, FromChild};
use crate::event::Notice;

mod threads;

/// What tells one version of the child from another, and whose it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) version: &'static str,
    pub(super) lists_turns: bool,
    pub(super) marks_turns: bool,
    /// What its history says of a turn that was killed.
    pub(super) killed: &'static str,
    /// Somebody else runs it: it lives on when the connection is lost.
    pub(super) external: bool,
    /// It hardly ever tells its history.
    pub(super) silent: bool,
}

/// The versions that lives are lived with.
pub(super) const VERSIONS: [(&str, bool, bool, &str); 5] = [
    ("0.169.0", true, true, "interrupted"),
    ("0.135.0", true, false, "interrupted"),
    ("0.116.0", false, true, "interrupted"),
    ("0.107.0", false, false, "inProgress"),
    ("0.104.0", false, false, "completed"),
];

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Fine,
    /// It is never seen.
    Lost,
    /// It is done, and the answer never comes.
    Mute,
    /// It is done, and the answer comes after other lines.
    Late,
    Overloaded,
    Refused,
}

/// How the start of a child goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Start {
    Fine,
    Silent,
    Refused,
    BadConfig,
    ConfigWarning,
    TooOld,
}

pub(super) struct Past {
    pub(super) id: String,
    /// How it truly stands.
    pub(super) status: &'static str,
    pub(super) killed: bool,
    pub(super) mark: Value,
}

pub(super) struct Running {
    pub(super) id: String,
    /// It has said that it began; before that it is deaf.
    begun: bool,
    /// It ends only when it is interrupted.
    pub(super) endless: bool,
    /// The child began it by itself.
    unasked: bool,
    /// It has been interrupted, and ends next.
    ending: bool,
    item: Option<(String, &'static str)>,
    /// The request that it waits for.
    question: Option<u64>,
}

#[derive(Default)]
pub(super) struct Thread {
    ephemeral: bool,
    loaded: bool,
    /// The connection hears of it.
    subscribed: bool,
    pub(super) turns: Vec<Past>,
    pub(super) running: Option<Running>,
    /// Commands that go on after their turn.
    left: Vec<(String, String)>,
}

/// A request of the child.
pub(super) struct Question {
    thread_id: String,
    turn_id: String,
    method: &'static str,
}

pub(super) struct Peer {
    pub(super) traits: Traits,
    /// The process, or the connection to it.
    pub(super) epoch: Option<Epoch>,
    pub(super) start: Start,
    greeted: bool,
    /// It does nothing and says nothing.
    pub(super) hung: bool,
    /// Nothing goes wrong any more.
    pub(super) healthy: bool,
    pub(super) stdin: VecDeque<Value>,
    pub(super) lines: VecDeque<FromChild>,
    pub(super) late: Vec<FromChild>,
    pub(super) threads: BTreeMap<String, Thread>,
    pub(super) questions: BTreeMap<u64, Question>,
    /// How often each was asked of this connection and not answered: it is asked again of who joins twice.
    unanswered: BTreeMap<u64, u32>,
    /// The marks of all turns that were ever started.
    pub(super) started: BTreeSet<String>,
    /// Turns and items whose end nobody was told.
    pub(super) untold: BTreeSet<String>,
    ids: u64,
    next_question: u64,
    pub(super) seen: Vec<&'static str>,
}

impl Peer {
    pub(super) fn new(traits: Traits) -> Peer {
        Peer {
            traits,
            epoch: None,
            start: Start::Fine,
            greeted: false,
            hung: false,
            healthy: false,
            stdin: VecDeque::new(),
            lines: VecDeque::new(),
            late: Vec::new(),
            threads: BTreeMap::new(),
            questions: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            started: BTreeSet::new(),
            untold: BTreeSet::new(),
            ids: 0,
            next_question: 0,
            seen: Vec::new(),
        }
    }

    fn id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}-{}", self.ids)
    }

    pub(super) fn begin(&mut self, epoch: Epoch, start: Start) {
        (self.epoch, self.start, self.greeted, self.hung) = (Some(epoch), start, false, false);
        self.lines.push_back(match self.traits.external {
            true => FromChild::Connected { endpoint: "ws://127.0.0.1:1".into() },
            false => FromChild::Spawned { pid: 7, process_mark: "m".into() },
        });
    }

    fn say(&mut self, thread_id: &str, method: &str, detail: Value) {
        if self.threads.get(thread_id).is_some_and(|thread| thread.subscribed) {
            let notice = Notice::new(method.to_owned(), detail.as_object().unwrap().clone());
            self.lines.push_back(FromChild::Notice(Box::new(notice)));
        }
    }

    fn answer(&mut self, rpc: u64, fate: Fate, result: Result<Value, RpcError>) {
        match fate {
            Fate::Mute => self.seen.push("answer lost"),
            Fate::Late => self.late.push(FromChild::Answer { rpc, result }),
            _ => self.lines.push_back(FromChild::Answer { rpc, result }),
        }
    }

    fn fate(&mut self, method: &str, random: &mut Random) -> Fate {
        if self.healthy || !method.contains('/') || method == "config/read" {
            return Fate::Fine;
        }
        let history = method == "thread/turns/list" || method == "thread/read";
        let fate = match random.below(100) {
            0 | 1 => Fate::Lost,
            2 | 3 => Fate::Mute,
            4..=8 => Fate::Late,
            9 | 10 => Fate::Overloaded,
            11 | 12 => Fate::Refused,
            13.. if history && (self.traits.silent || random.one_in(5)) => Fate::Refused,
            _ => return Fate::Fine,
        };
        self.seen.push(match fate {
            Fate::Lost => "request lost",
            Fate::Overloaded => "request overloaded",
            Fate::Refused => "request refused",
            _ => "answer late or lost",
        });
        fate
    }

    /// Takes the next message in.
    pub(super) fn hear(&mut self, random: &mut Random) {
        if self.hung {
            return;
        }
        let Some(message) = self.stdin.pop_front() else { return };
        let Some(method) = message["method"].as_str() else { return self.hear_answer(&message) };
        let Some(rpc) = message["id"].as_u64() else { return };
        if self.start == Start::Silent {
            return;
        }
        let handshake = matches!(method, "initialize" | "config/read" | "account/read");
        assert!(self.greeted || method == "initialize", "{method} comes after the handshake");
        // That it warned may be in the line that was dropped.
        let fit = matches!(self.start, Start::Fine | Start::ConfigWarning);
        assert!(handshake || fit, "{method} goes to a child that is fit");
        let fate = self.fate(method, random);
        match fate {
            Fate::Lost => return,
            Fate::Overloaded => return self.answer(rpc, fate, Err(RpcError::overloaded())),
            Fate::Refused => return self.answer(rpc, fate, refusal("the database is locked")),
            _ => {}
        }
        let params = &message["params"];
        let thread_id = params["threadId"].as_str().unwrap_or_default().to_owned();
        match method {
            "turn/start" => return self.start_turn(rpc, fate, &thread_id, params, random),
            "initialize" if self.start == Start::ConfigWarning => {
                let detail = json!({"summary": "Invalid configuration; using defaults."});
                let notice = Notice::new("configWarning".into(), detail.as_object().unwrap().clone());
                self.lines.push_back(FromChild::Notice(Box::new(notice)));
            }
            _ => {}
        }
        let result = self.result(method, &thread_id, params, random);
        let resumed = method == "thread/resume" && result.is_ok();
        self.answer(rpc, fate, result);
        if resumed {
            self.ask_again(&thread_id);
        }
    }

    /// What it does about a request that it takes, and answers.
    fn result(
        &mut self,
        method: &str,
        thread_id: &str,
        params: &Value,
        random: &mut Random,
    ) -> Result<Value, RpcError> {
        match method {
            "initialize" => {
                self.greeted = true;
                let version = if self.start == Start::TooOld { "0.92.0" } else { self.traits.version };
                match self.start {
                    Start::Refused => refusal("no"),
                    _ => Ok(json!({"userAgent": format!("codexd/{version} (x)")})),
                }
            }
            "config/read" if self.start == Start::BadConfig => {
                Err(RpcError { code: -32603, message: "bad toml".into() })
            }
            "config/read" | "account/read" | "model/list" => Ok(json!({})),
            "thread/start" => {
                let id = self.id("thread");
                let ephemeral = params["ephemeral"] == true;
                let thread = Thread { loaded: true, subscribed: true, ephemeral, ..Thread::default() };
                self.threads.insert(id.clone(), thread);
                Ok(
                    json!({"thread": {"id": id, "ephemeral": ephemeral}, "cwd": "/w", "approvalPolicy": "never"}),
                )
            }
            "thread/resume" => match self.threads.get_mut(thread_id) {
                Some(thread) if thread.loaded || (!thread.turns.is_empty() && !thread.ephemeral) => {
                    (thread.loaded, thread.subscribed) = (true, true);
                    Ok(json!({"thread": {"id": thread_id, "ephemeral": thread.ephemeral}}))
                }
                _ => refusal(&format!("no rollout found for thread id {thread_id}")),
            },
            "turn/steer" => match self.heard_turn(thread_id) {
                Some(turn) if params["expectedTurnId"] == turn.id.as_str() => Ok(json!({"turnId": turn.id})),
                Some(turn) => refusal(&format!("expected active turn id x but found {}", turn.id)),
                None => refusal("no active turn to steer"),
            },
            "turn/interrupt" => {
                let ignore = !self.healthy && random.one_in(8);
                match self.heard_turn(thread_id) {
                    Some(turn) if params["turnId"] == turn.id.as_str() => {
                        turn.ending |= !ignore;
                        Ok(json!({}))
                    }
                    _ => {
                        self.seen.push("interrupt not heard");
                        refusal("no active turn to interrupt")
                    }
                }
            }
            "thread/turns/list" if !self.traits.lists_turns => {
                refusal("Invalid request: unknown variant `thread/turns/list`, expected one of `initialize`")
            }
            "thread/turns/list" | "thread/read" => self.history(thread_id, method),
            other => panic!("{other} was never asked before"),
        }
    }

    /// The turn that runs and is not deaf.
    fn heard_turn(&mut self, thread_id: &str) -> Option<&mut Running> {
        self.threads.get_mut(thread_id)?.running.as_mut().filter(|turn| turn.begun)
    }

    fn start_turn(&mut self, rpc: u64, fate: Fate, thread_id: &str, params: &Value, random: &mut Random) {
        let mark = params["clientUserMessageId"].clone();
        let new = self.started.insert(mark.as_str().unwrap().to_owned());
        assert!(new, "{mark} is started once");
        let id = self.id("turn");
        let thread = self.threads.get_mut(thread_id).expect("a turn goes to a thread that was begun");
        assert!(thread.loaded && thread.subscribed, "a turn goes to a thread that is loaded");
        if let Some(running) = &thread.running {
            assert!(running.unasked, "a second turn/start would steer in silence");
            let turn = json!({"turn": {"id": running.id}});
            return self.answer(rpc, fate, Ok(turn));
        }
        thread.turns.push(Past { id: id.clone(), status: "inProgress", killed: false, mark });
        let endless = random.one_in(3);
        thread.running = Some(Running::new(&id, endless));
        self.answer(rpc, fate, Ok(json!({"turn": {"id": id}})));
    }

    fn history(&self, thread_id: &str, method: &str) -> Result<Value, RpcError> {
        let error = |message: String| Err(RpcError { code: -32600, message });
        let Some(thread) = self.threads.get(thread_id) else {
            return error(format!("thread not found: {thread_id}"));
        };
        if thread.turns.is_empty() && thread_id.ends_with('7') {
            return error("thread is not materialized yet".to_owned());
        }
        let turns = thread.turns.iter().map(|past| {
            let status = if past.killed { self.traits.killed } else { past.status };
            let client_id = if self.traits.marks_turns { past.mark.clone() } else { Value::Null };
            json!({"id": past.id, "status": status, "items": [{"type": "userMessage", "clientId": client_id}]})
        });
        Ok(match method {
            "thread/read" => {
                let status = if thread.running.is_some() { "active" } else { "idle" };
                json!({"thread": {"status": {"type": status}, "turns": turns.collect::<Vec<_>>()}})
            }
            _ => json!({"data": turns.rev().take(1).collect::<Vec<_>>()}),
        })
    }

    /// The answer to a request of the child's own.
    fn hear_answer(&mut self, message: &Value) {
        let id = message["id"].as_u64().expect("an answer says to what");
        let left = self.unanswered.get_mut(&id).filter(|left| **left > 0);
        *left.expect("a request of the child is answered once") -= 1;
        let Some(question) = self.questions.remove(&id) else { return }; // it is done with already
        let detail = json!({"threadId": question.thread_id, "requestId": id});
        self.say(&question.thread_id, "serverRequest/resolved", detail);
        let thread = self.threads.get_mut(&question.thread_id);
        if let Some(turn) = thread.and_then(|thread| thread.running.as_mut()) {
            turn.question = turn.question.filter(|&asked| asked != id);
            turn.ending |= message["result"]["decision"] == "cancel";
        }
    }

    /// What is asked is asked again of who joins a thread.
    fn ask_again(&mut self, thread_id: &str) {
        let asked = self.questions.iter().filter(|(_, question)| question.thread_id == thread_id);
        for id in asked.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.ask(id);
        }
    }

    fn ask(&mut self, id: u64) {
        *self.unanswered.entry(id).or_default() += 1;
        let question = &self.questions[&id];
        let Question { thread_id, turn_id, method } = question;
        let detail = json!({"threadId": thread_id, "turnId": turn_id, "itemId": format!("item-{id}"),
            "proposedExecpolicyAmendment": ["touch"]});
        let notice = Notice::new((*method).to_owned(), detail.as_object().unwrap().clone());
        self.lines.push_back(FromChild::Asked { id: id.into(), notice: Box::new(notice) });
    }

    /// The connection is gone; what was written to it is read up to a point.
    pub(super) fn disconnect(&mut self, random: &mut Random) {
        if self.epoch.is_some() && self.greeted {
            for _ in 0..random.below(self.stdin.len() as u64 + 1) {
                self.hear(random);
            }
        }
        self.epoch = None;
        self.unanswered.clear();
        self.stdin.clear();
        self.lines.clear();
        self.late.clear();
        for thread in self.threads.values_mut() {
            thread.subscribed = false;
        }
    }

    /// The process is gone.
    pub(super) fn die(&mut self) {
        self.epoch = None;
        self.unanswered.clear();
        self.stdin.clear();
        self.lines.clear();
        self.late.clear();
        self.questions.clear();
        self.threads.retain(|_, thread| !thread.turns.is_empty() && !thread.ephemeral);
        for thread in self.threads.values_mut() {
            (thread.loaded, thread.subscribed) = (false, false);
            thread.left.clear();
            if let Some(turn) = thread.running.take() {
                let past = thread.turns.iter_mut().find(|past| past.id == turn.id).unwrap();
                (past.status, past.killed) = ("interrupted", true);
            }
        }
    }

    /// What is not at rest.
    pub(super) fn unrest(&self) -> String {
        let running = self.threads.iter().filter_map(|(id, thread)| Some((id, &thread.running.as_ref()?.id)));
        let running: Vec<_> = running.collect();
        format!("questions {:?}, turns {running:?}", self.questions.keys().collect::<Vec<_>>())
    }

    /// Nothing is left to be read or said, by itself.
    pub(super) fn is_quiet(&self) -> bool {
        let rests = |thread: &Thread| {
            let turn_rests =
                |turn: &Running| turn.begun && !turn.ending && turn.endless && turn.item.is_none();
            thread.left.is_empty() && thread.running.as_ref().is_none_or(turn_rests)
        };
        self.stdin.is_empty()
            && self.lines.is_empty()
            && self.late.is_empty()
            && self.questions.is_empty()
            && self.threads.values().all(rests)
    }
}

impl Running {
    fn new(id: &str, endless: bool) -> Running {
        let (begun, unasked, ending) = (false, false, false);
        Running { id: id.to_owned(), begun, endless, unasked, ending, item: None, question: None }
    }
}

fn refusal(message: &str) -> Result<Value, RpcError> {
    Err(RpcError { code: -32600, message: message.to_owned() })
}
