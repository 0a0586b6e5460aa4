//! One running turn: what others may tell it, and the thread that acts it out.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{World, lock, views};
use crate::script::{self, Round, Step};

/// Between the answer to `turn/start` and `turn/started` the real one is deaf to interrupts for about so long.
const DEAF: Duration = Duration::from_millis(10);
/// The wait before the first retry; each further one is twice as long.
const RETRY: Duration = Duration::from_millis(200);

/// What the user said.
#[derive(Clone, Debug, Default)]
pub(super) struct Input {
    pub(super) content: Vec<Value>,
    pub(super) text: String,
    pub(super) client_id: Value,
}

/// A turn that has not ended.
pub(super) struct Turn {
    pub(super) id: String,
    pub(super) thread: String,
    control: Mutex<Control>,
    wake: Condvar,
}

#[derive(Default)]
struct Control {
    started: bool,
    closed: bool,
    steers: VecDeque<Input>,
    /// An interrupt, with the request that waits for its answer.
    interrupt: Option<Option<Value>>,
    /// Answers of the client, and outputs of commands, by what was asked.
    answers: HashMap<u64, Value>,
}

/// Why a turn does not go on as its text says.
pub(super) enum Stop {
    /// The user said something else meanwhile.
    Steered,
    /// By the client.
    Interrupted,
    /// By an approval that was answered with `cancel`.
    Cancelled,
    /// The model failed, with this error.
    Failed(Value),
}

impl Turn {
    pub(super) fn new(thread: &str) -> Turn {
        let (control, wake) = (Mutex::default(), Condvar::new());
        Turn { id: views::new_id(), thread: thread.to_owned(), control, wake }
    }

    pub(super) fn has_started(&self) -> bool {
        let control = lock(&self.control);
        control.started && !control.closed
    }

    /// Adds an input; `false` when it comes too late.
    pub(super) fn steer(&self, input: Input) -> bool {
        let mut control = lock(&self.control);
        if !control.closed {
            control.steers.push_back(input);
            self.wake.notify_all();
        }
        !control.closed
    }

    /// Asks for the end; `None` when it comes too late. The turn itself answers the first request (`true`) alone.
    pub(super) fn interrupt(&self, request: Option<Value>) -> Option<bool> {
        let mut control = lock(&self.control);
        if control.closed {
            return None;
        }
        let first = control.interrupt.is_none();
        control.interrupt.get_or_insert(request);
        self.wake.notify_all();
        Some(first)
    }

    /// Hands in what `wait_for` of the same number waits for.
    pub(super) fn answered(&self, number: u64, answer: Value) {
        lock(&self.control).answers.insert(number, answer);
        self.wake.notify_all();
    }

    /// Waits until then, or until it is cut short by an interrupt or (if `steerable`) by a steer.
    fn pause(&self, until: Instant, steerable: bool) -> Result<(), Stop> {
        let mut control = lock(&self.control);
        loop {
            if control.interrupt.is_some() {
                return Err(Stop::Interrupted);
            }
            if steerable && !control.steers.is_empty() {
                return Err(Stop::Steered);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            control = self.wake.wait_timeout(control, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for an answer; only an interrupt cuts it short.
    pub(super) fn wait_for(&self, number: u64) -> Result<Value, Stop> {
        let mut control = lock(&self.control);
        loop {
            if let Some(answer) = control.answers.remove(&number) {
                return Ok(answer);
            }
            if control.interrupt.is_some() {
                return Err(Stop::Interrupted);
            }
            control = self.wake.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next steer; with none left, and no interrupt, the turn takes no more.
    fn next_or_close(&self) -> Result<Option<Input>, Stop> {
        let mut control = lock(&self.control);
        if control.interrupt.is_some() {
            return Err(Stop::Interrupted);
        }
        let next = control.steers.pop_front();
        control.closed = next.is_none();
        Ok(next)
    }
}

/// Acts a turn out, from its start to its end.
pub(super) fn run(world: &Arc<World>, turn: &Arc<Turn>, input: Input) {
    thread::sleep(DEAF);
    let mut actor = Actor::of(world, turn);
    actor.active();
    let mut started = views::new_turn(&turn.id);
    started["startedAt"] = (views::now_ms() / 1000).into();
    world.out.notify("turn/started", json!({"threadId": turn.thread, "turn": started}));
    lock(&turn.control).started = true;
    match actor.answer_all(input) {
        Ok(()) | Err(Stop::Steered) => {
            actor.notify("thread/readState/changed", actor.read_state());
            actor.end("completed", &json!({"type": "idle"}), &Value::Null);
        }
        Err(Stop::Interrupted | Stop::Cancelled) => actor.interrupted(),
        Err(Stop::Failed(error)) => actor.failed(&error),
    }
}

/// The acting thread's own.
pub(super) struct Actor<'a> {
    pub(super) world: &'a Arc<World>,
    pub(super) turn: &'a Arc<Turn>,
    /// The newest whole message of the agent.
    last: Option<Value>,
    /// What the newest tool call gave.
    pub(super) output: Option<String>,
    /// What this turn has changed in files.
    pub(super) diff: Option<String>,
    in_tool: bool,
}

impl<'a> Actor<'a> {
    pub(super) fn of(world: &'a Arc<World>, turn: &'a Arc<Turn>) -> Actor<'a> {
        Actor { world, turn, last: None, output: None, diff: None, in_tool: false }
    }

    fn answer_all(&mut self, input: Input) -> Result<(), Stop> {
        let mut next = Some(input);
        while let Some(input) = next {
            match self.answer(&input) {
                Ok(()) => {}
                Err(Stop::Steered) if self.in_tool => {}
                Err(Stop::Steered) => self.rate_limits(),
                Err(stop) => return Err(stop),
            }
            next = self.turn.next_or_close()?;
        }
        Ok(())
    }

    fn answer(&mut self, input: &Input) -> Result<(), Stop> {
        if !input.content.is_empty() {
            let now = views::now_ms();
            let item = json!({
                "type": "userMessage", "id": views::new_id(), "clientId": input.client_id, "content": input.content,
                "startedAtMs": now, "completedAtMs": null,
            });
            self.item_started(&item);
            self.item_completed(item);
        }
        self.output = None;
        for round in script::parse(&input.text) {
            self.round(&round, &input.text)?;
        }
        Ok(())
    }

    fn round(&mut self, round: &Round, text: &str) -> Result<(), Stop> {
        if let Some((status, times)) = round.fail {
            self.retry(times, &views::failure(status))?;
        }
        self.retry_cut(round.cut)?;
        if round.hang {
            loop {
                self.turn.pause(Instant::now() + Duration::from_secs(3600), true)?;
            }
        }
        for step in &round.steps {
            self.pause(Duration::ZERO)?;
            self.in_tool = step.is_tool();
            self.step(step)?;
        }
        if round.is_silent() {
            self.pause(self.world.options.think)?;
            let answer = self.output.take().map(|output| script::after_tool(&output));
            self.say(&answer.unwrap_or_else(|| format!("Hello from fake: {text}")), Duration::ZERO)?;
        }
        self.response_ended();
        if round.steps.last().is_some_and(Step::is_tool) {
            self.pause(Duration::ZERO)?; // what was said during the call is taken in now
        }
        self.in_tool = false;
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Stop> {
        match step {
            Step::Say(text, pause) => self.say(text, *pause)?,
            Step::Big(bytes) => {
                let item = self.message_begins();
                self.message_ends(item, "x".repeat(*bytes));
            }
            Step::Flood(count, bytes) => {
                let item = self.message_begins();
                let delta = "x".repeat(*bytes);
                for _ in 0..*count {
                    self.delta(&item, &delta);
                    self.pause(Duration::ZERO)?;
                }
                self.message_ends(item, delta.repeat(*count));
            }
            Step::Sleep(time) => self.pause(*time)?,
            Step::Exec(command) => self.exec(command)?,
            Step::Patch(file, line) => self.patch(file, line)?,
            Step::Ask(question, choices) => self.ask(question, choices)?,
            Step::Garbage(text) => self.world.out.raw(text),
            Step::Half => self.world.out.halves(&json!({"method": "fake/half", "params": self.scope()})),
            Step::Line(bytes) => {
                let mut params = self.scope();
                params["text"] = "x".repeat(*bytes).into();
                self.notify("fake/line", params);
            }
            Step::Request(method) => {
                let answer = self.request(method, self.scope())?;
                self.output = Some(answer.to_string());
            }
            Step::Notify(method) => self.notify(method, self.scope()),
            Step::Items(count, bytes, every) => {
                let begun = Instant::now();
                for at in 0..*count as u32 {
                    self.turn.pause(begun + *every * at, true)?; // by the clock, so that one that is late delays no other
                    let item = views::message(&"x".repeat(*bytes));
                    let mut params = self.about(&item, "completedAtMs");
                    params["sentAtNs"] = views::now_ns().into();
                    self.notify("item/completed", params);
                }
            }
            Step::Stderr(text) => {
                let _ = writeln!(io::stderr(), "{text}");
            }
            Step::Exit(code) => std::process::exit(*code),
        }
        Ok(())
    }

    fn say(&mut self, text: &str, pause: Duration) -> Result<(), Stop> {
        let item = self.message_begins();
        for (at, word) in script::words(text).enumerate() {
            self.pause(if at == 0 { Duration::ZERO } else { pause })?;
            self.delta(&item, word);
        }
        self.message_ends(item, text.to_owned());
        Ok(())
    }

    fn message_begins(&self) -> Value {
        let item = views::message("");
        self.item_started(&item);
        item
    }

    fn delta(&self, item: &Value, delta: &str) {
        let mut params = self.scope();
        params["itemId"] = item["id"].clone();
        params["delta"] = delta.into();
        self.notify("item/agentMessage/delta", params);
    }

    fn message_ends(&mut self, mut item: Value, text: String) {
        item["text"] = text.into();
        self.last = Some(self.item_completed(item));
    }

    /// A stream that ends in mid-message, so many times.
    fn retry_cut(&mut self, times: u32) -> Result<(), Stop> {
        let what = "stream disconnected before completion: stream closed before response.completed";
        let error = views::error(what, json!("other"));
        for attempt in 0..times {
            let item = self.message_begins();
            self.delta(&item, "par");
            self.rate_limits();
            self.retry_notice(attempt, &error)?;
        }
        Ok(())
    }

    fn retry(&self, times: u32, error: &Value) -> Result<(), Stop> {
        (0..times).try_for_each(|attempt| self.retry_notice(attempt, error))
    }

    /// After a failed attempt: says that there will be another, and waits for it, or fails.
    fn retry_notice(&self, attempt: u32, last: &Value) -> Result<(), Stop> {
        let most = self.world.config.stream_retries;
        if attempt >= most {
            return Err(Stop::Failed(last.clone()));
        }
        let status = &last["codexErrorInfo"]["httpConnectionFailed"]["httpStatusCode"];
        let info = json!({"responseStreamDisconnected": {"httpStatusCode": status}});
        let mut notice = views::error(&format!("Reconnecting... {}/{most}", attempt + 1), info);
        notice["additionalDetails"] = last["message"].clone();
        self.error(&notice, true);
        self.pause(RETRY * 2_u32.pow(attempt.min(5)))
    }

    fn pause(&self, time: Duration) -> Result<(), Stop> {
        self.turn.pause(Instant::now() + time, true)
    }

    /// The model has said all, or called a tool that is done.
    fn response_ended(&self) {
        let responses = self.changed(|thread| {
            thread.responses += 1;
            thread.responses
        });
        let usage = views::usage(&self.turn.thread, &self.turn.id, responses.unwrap_or(1));
        self.notify("thread/tokenUsage/updated", usage);
        self.rate_limits();
        self.diff_updated();
    }

    fn rate_limits(&self) {
        let limits = json!({"limitId": "codex", "limitName": null, "primary": null, "secondary": null, "credits": null});
        self.notify("account/rateLimits/updated", json!({"rateLimits": limits}));
    }

    pub(super) fn diff_updated(&self) {
        if let Some(diff) = &self.diff {
            let mut params = self.scope();
            params["diff"] = diff.as_str().into();
            self.notify("turn/diff/updated", params);
        }
    }

    fn interrupted(&self) {
        if self.in_tool {
            self.response_ended();
        } else {
            self.rate_limits();
        }
        self.end("interrupted", &json!({"type": "idle"}), &Value::Null);
        let mut state = self.world.lock();
        let open = state.requests.extract_if(|_, pending| pending.turn.id == self.turn.id);
        let open = open.map(|(id, _)| id).collect::<Vec<_>>();
        drop(state);
        for id in open {
            self.notify("serverRequest/resolved", json!({"threadId": self.turn.thread, "requestId": id}));
        }
    }

    fn failed(&self, error: &Value) {
        self.status(json!({"type": "systemError"}));
        self.error(error, false);
        self.notify("thread/readState/changed", self.read_state());
        self.end("failed", &Value::Null, error);
    }

    /// Records the end, and says so.
    fn end(&self, status: &str, thread_status: &Value, error: &Value) {
        let times = self.stored(|thread| {
            let record = thread.record(&self.turn.id)?;
            let ended = views::now_ms();
            (record.status, record.error, record.ended_ms) = (status.into(), error.clone(), Some(ended));
            Some((record.started_ms, ended))
        });
        let (started, ended) = times.flatten().unwrap_or_default();
        let mut control = lock(&self.turn.control);
        control.closed = true;
        let interrupt = control.interrupt.take().flatten();
        drop(control);
        if let Some(id) = interrupt {
            self.world.out.answer(&id, &json!({}));
        }
        if !thread_status.is_null() {
            self.status(thread_status.clone());
        }
        let mut turn = views::new_turn(&self.turn.id);
        turn["status"] = status.into();
        turn["error"] = error.clone();
        turn["startedAt"] = (started / 1000).into();
        turn["completedAt"] = (ended / 1000).into();
        turn["durationMs"] = (ended - started).into();
        if let Some(last) = self.last.as_ref().filter(|_| status == "completed") {
            turn["items"] = json!([last]);
            turn["itemsView"] = "summary".into();
        }
        // One breath with freeing the thread, so that no next turn speaks before this one's last word.
        let mut state = self.world.lock();
        self.notify("turn/completed", json!({"threadId": self.turn.thread, "turn": turn}));
        if let Some(loaded) = state.threads.get_mut(&self.turn.thread) {
            loaded.active = None;
        }
    }

    fn error(&self, error: &Value, will_retry: bool) {
        let mut params = self.scope();
        params["error"] = error.clone();
        params["willRetry"] = will_retry.into();
        self.notify("error", params);
    }

    fn read_state(&self) -> Value {
        let unread = json!({"type": "turn", "turnId": self.turn.id});
        json!({"threadId": self.turn.thread, "readState": {"firstUnread": unread, "revision": views::new_id()}})
    }

    pub(super) fn status(&self, status: Value) {
        self.notify("thread/status/changed", json!({"threadId": self.turn.thread, "status": status}));
    }

    pub(super) fn active(&self) {
        self.status(json!({"type": "active", "activeFlags": []}));
    }

    pub(super) fn notify(&self, method: &str, params: Value) {
        self.world.out.notify(method, params);
    }

    pub(super) fn scope(&self) -> Value {
        json!({"threadId": self.turn.thread, "turnId": self.turn.id})
    }

    pub(super) fn item_started(&self, item: &Value) {
        self.notify("item/started", self.about(item, "startedAtMs"));
    }

    /// Gives the item its end, stores it, says so, and returns it.
    pub(super) fn item_completed(&self, mut item: Value) -> Value {
        item["completedAtMs"] = views::now_ms().into();
        self.stored(|thread| thread.record(&self.turn.id).map(|record| record.items.push(item.clone())));
        self.notify("item/completed", self.about(&item, "completedAtMs"));
        item
    }

    fn about(&self, item: &Value, time: &str) -> Value {
        let mut params = self.scope();
        params["item"] = item.clone();
        params[time] = views::now_ms().into();
        params
    }

    /// Changes the thread and stores it; what the change says, or `None` if the thread is gone.
    pub(super) fn stored<T>(&self, change: impl FnOnce(&mut super::Thread) -> T) -> Option<T> {
        self.changed(|thread| {
            let said = change(thread);
            self.world.store.save(thread);
            said
        })
    }

    /// The same for what may wait to be stored with the next change.
    fn changed<T>(&self, change: impl FnOnce(&mut super::Thread) -> T) -> Option<T> {
        let mut state = self.world.lock();
        state.threads.get_mut(&self.turn.thread).map(|loaded| change(&mut loaded.thread))
    }
}
