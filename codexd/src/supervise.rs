//! The child's life: started, brought through the handshake, watched, started again.

use std::collections::VecDeque;
use std::time::Duration;

use common::Error;
use common::child::Signal;
use common::error;
use common::time::Now;
use serde_json::Value;

use crate::app_server::protocol::{self, RpcError};
use crate::core::{Birth, Core, Effect, Epoch};
use crate::event::{Event, Notice};
use crate::requests::Ask;
use crate::sessions::Gone;
use crate::state::ChildStatus;

/// How long spawn and handshake may take together.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long after a death the next child is started, by how many died in a row.
pub const BACKOFF_SECONDS: [u64; 7] = [0, 1, 2, 4, 8, 16, 30];
/// A child that was up for so long makes the next death the first in a row.
pub const STEADY: Duration = Duration::from_secs(60);
/// So many deaths …
pub const CRASH_LOOP_DEATHS: usize = 5;
/// … within this are a crash loop.
pub const CRASH_LOOP_WINDOW: Duration = Duration::from_secs(300);
/// How often a child that does not come up is tried.
pub const FAILED_RETRY: Duration = Duration::from_secs(60);
/// How long the child gets to end after its stdin is closed; measured: 0.2 s.
pub const EOF_GRACE: Duration = Duration::from_secs(3);
/// And after SIGTERM.
pub const TERM_GRACE: Duration = Duration::from_secs(2);
/// And after SIGKILL, before codexd ends without it.
pub const KILL_GRACE: Duration = Duration::from_secs(3);

const STOPS: &str = "takes no work any more: codexd stops";

/// Where the child is in its life.
#[derive(Debug)]
pub(crate) enum Child {
    /// There is none; another is started at `restart_at`, or never if codexd stops.
    Down { restart_at: Option<Duration> },
    /// Spawned, in the handshake.
    Starting { epoch: Epoch, give_up_at: Duration, greeting: Greeting },
    /// Takes work.
    Up { epoch: Epoch, since: Duration },
    /// Asked to end, ever less kindly.
    Ending { epoch: Epoch, stage: Stage, next_at: Duration, why: Why },
}

/// What the handshake has brought so far.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    user_agent: Option<String>,
    config_read: bool,
    login_required: Option<bool>,
}

/// Why a child is asked to end.
#[derive(Clone, Debug)]
pub(crate) enum Why {
    /// codexd stops.
    Stop,
    /// It is no good, but the next one may be.
    Unfit(String),
    /// It is no good, and the next one will be none before somebody mends its configuration.
    Hopeless(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    Eof,
    Term,
    Kill,
}

/// What is remembered from one child to the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// When the last few died.
    deaths: VecDeque<Duration>,
    /// How many died in a row.
    in_a_row: usize,
    /// codexd is to end, and why.
    stopping: Option<&'static str>,
}

impl Child {
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        match self {
            Child::Down { .. } => None,
            Child::Starting { epoch, .. } | Child::Up { epoch, .. } | Child::Ending { epoch, .. } => {
                Some(*epoch)
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self {
            Child::Down { restart_at } => *restart_at,
            Child::Starting { give_up_at, .. } => Some(*give_up_at),
            Child::Up { .. } => None,
            Child::Ending { next_at, .. } => Some(*next_at),
        }
    }
}

impl Core {
    /// Why no call may wait for the child.
    pub(crate) fn refusal(&self) -> Option<Error> {
        let child = self.state.child();
        if self.live.supervision.stopping.is_some() {
            return Some(protocol::unavailable(STOPS));
        }
        (child.status == ChildStatus::Failed).then(|| {
            let reason = child.last_error.as_deref().unwrap_or("no reason known");
            protocol::unavailable(&format!("does not come up ({reason})"))
        })
    }

    /// Whether work is taken.
    pub(crate) fn readiness(&self) -> Result<(), Error> {
        let child = self.state.child();
        if matches!(self.live.child, Child::Up { .. }) && self.live.supervision.stopping.is_none() {
            return Ok(());
        }
        let reason = match (&self.live.supervision.stopping, &child.last_error) {
            (Some(_), _) => "codexd stops".to_owned(),
            (None, Some(error)) => format!("app-server is not up: {error}"),
            (None, None) => "app-server is not up yet".to_owned(),
        };
        Err(Error::new(error::APP_SERVER_UNAVAILABLE, reason))
    }

    /// The first input of a process: what the last one left is settled, and a child is started.
    pub(crate) fn start_up(&mut self, now: Now, out: &mut Vec<Effect>) {
        if let Some(log_id) = self.birth.new_log_id.take() {
            self.emit(now, Event::LogCreated { log_id }, out);
        }
        let Birth { pid, process_mark, process_started_at, version, .. } = self.birth.clone();
        self.emit(now, Event::DaemonStarted { pid, process_mark, process_started_at, version }, out);
        if matches!(self.state.child().status, ChildStatus::Starting | ChildStatus::Running) {
            let epoch = self.state.child().epoch;
            let reason = self.birth.past.to_owned();
            self.emit(now, Event::ChildExited { epoch, reason, retry_in_ms: Some(0) }, out);
        }
        let gone = if self.birth.rules.external { Gone::Perhaps } else { Gone::Unseen };
        self.settle(now, self.birth.past, gone, out);
        self.spawn(now, out);
    }

    /// The child is gone: those who wait for it are answered, what ran is settled, and the next one is planned.
    pub(crate) fn exited(&mut self, now: Now, epoch: Epoch, reason: &str, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.live.child, Child::Down { restart_at: None });
        let (reason, hopeless) = match &before {
            Child::Ending { why: Why::Hopeless(why), .. } => (why.clone(), true),
            Child::Ending { why: Why::Unfit(why), .. } => (why.clone(), false),
            _ => (reason.to_owned(), false),
        };
        self.answer_all(&reason, out);
        self.live.loaded.clear();
        let gone = if self.birth.rules.external { Gone::Perhaps } else { Gone::Seen };
        let told = match self.live.supervision.stopping {
            Some(_) => "codexd was stopped".to_owned(),
            None => format!("app-server ended ({reason})"),
        };
        self.settle(now, &told, gone, out);
        self.live.stirred = true;
        if let Some(stopping) = self.live.supervision.stopping {
            self.emit(now, Event::ChildExited { epoch, reason, retry_in_ms: None }, out);
            self.finish(now, stopping, out);
            return;
        }
        let steady = matches!(before, Child::Up { since, .. } if now.mono >= since + STEADY);
        let (retry, looping) = self.live.supervision.death(now.mono, steady);
        let failed = looping || hopeless;
        let retry = if failed { FAILED_RETRY } else { retry };
        let retry_in_ms = retry.as_millis() as u64;
        if failed {
            self.emit(now, Event::ChildFailed { epoch, reason: reason.clone(), retry_in_ms }, out);
            self.refuse_parked(&format!("does not come up ({reason})"), out);
        } else {
            self.emit(now, Event::ChildExited { epoch, reason, retry_in_ms: Some(retry_in_ms) }, out);
        }
        self.live.child = Child::Down { restart_at: Some(now.mono + retry) };
    }

    /// An answer of the handshake.
    pub(crate) fn handshake(
        &mut self,
        now: Now,
        ask: Ask,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let Child::Starting { epoch, greeting, .. } = &mut self.live.child else { return };
        let epoch = *epoch;
        match (ask, result) {
            (Ask::Initialize, Ok(answer)) => {
                greeting.user_agent = Some(answer["userAgent"].as_str().unwrap_or_default().to_owned());
                out.push(Effect::Send { epoch, message: protocol::initialized() });
                self.ask(now, epoch, protocol::config_read(), Ask::ConfigRead, out);
                self.ask(now, epoch, protocol::account_read(), Ask::AccountRead, out);
                return;
            }
            (Ask::Initialize, Err(error)) => {
                return self.fail(now, format!("initialize was refused: {}", error.message), out);
            }
            // -32603 is how it says that it runs on defaults because its configuration does not load.
            (Ask::ConfigRead, Err(error)) if error.code == -32603 => {
                return self.fail(now, format!("its configuration is invalid: {}", error.message), out);
            }
            (Ask::ConfigRead, _) => greeting.config_read = true,
            (Ask::AccountRead, Ok(answer)) => {
                greeting.login_required = Some(protocol::login_required(&answer))
            }
            (_, _) => greeting.login_required = Some(false),
        }
        let (Some(user_agent), true, Some(login_required)) =
            (greeting.user_agent.clone(), greeting.config_read, greeting.login_required)
        else {
            return;
        };
        let version = protocol::version(&user_agent);
        let warning = version.as_deref().filter(|version| protocol::is_below(version, protocol::SOUND));
        let warning = warning.map(|version| {
            format!("codex {version} has faults that {} has not; install that or newer", protocol::SOUND)
        });
        if let Some(too_old) =
            version.as_deref().filter(|version| protocol::is_below(version, protocol::OLDEST))
        {
            let oldest = protocol::OLDEST;
            let why = format!("codex {too_old} is too old; install @openai/codex {oldest} or newer");
            return self.fail(now, why, out);
        }
        self.emit(now, Event::ChildReady { epoch, version, user_agent, login_required, warning }, out);
        self.live.child = Child::Up { epoch, since: now.mono };
        self.live.stirred = true;
        self.doubts_due(now, out);
    }

    /// A configuration that does not load is fatal while the child starts: it would run on defaults.
    pub(crate) fn check_config_warning(&mut self, now: Now, notice: &Notice, out: &mut Vec<Effect>) {
        let summary = notice.detail.get("summary").and_then(Value::as_str).unwrap_or_default();
        let starting = matches!(self.live.child, Child::Starting { .. });
        if starting && notice.method == "configWarning" && summary.starts_with("Invalid configuration") {
            let details = notice.detail.get("details").and_then(Value::as_str).unwrap_or_default();
            self.fail(now, format!("{summary} {details}").trim().to_owned(), out);
        }
    }

    /// Asked to end: no new work, and the child goes first.
    pub(crate) fn stop(&mut self, now: Now, reason: &'static str, out: &mut Vec<Effect>) {
        if self.live.supervision.stopping.is_some() {
            return;
        }
        self.live.supervision.stopping = Some(reason);
        self.refuse_parked(STOPS, out);
        match self.live.child.epoch() {
            Some(epoch) => self.end(now, epoch, Stage::Eof, Why::Stop, out),
            None => {
                self.live.child = Child::Down { restart_at: None };
                self.finish(now, reason, out);
            }
        }
    }

    /// The child's deadlines.
    pub(crate) fn supervise(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.live.child.deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        match &self.live.child {
            Child::Down { .. } => self.spawn(now, out),
            Child::Starting { epoch, .. } => {
                let epoch = *epoch;
                let why = format!("no handshake within {} s", HANDSHAKE_DEADLINE.as_secs());
                self.end(now, epoch, Stage::Kill, Why::Unfit(why), out);
            }
            Child::Ending { epoch, stage: Stage::Kill, .. } => {
                let epoch = *epoch;
                self.exited(now, epoch, "it did not end when killed", out);
            }
            Child::Ending { epoch, stage, why, .. } => {
                let next = if *stage == Stage::Eof { Stage::Term } else { Stage::Kill };
                let (epoch, why) = (*epoch, why.clone());
                self.end(now, epoch, next, why, out);
            }
            Child::Up { .. } => {}
        }
    }

    fn spawn(&mut self, now: Now, out: &mut Vec<Effect>) {
        let epoch = self.state.child().epoch.max(self.birth.epoch_floor) + 1;
        self.birth.epoch_floor = epoch;
        self.live.no_turns_list = false;
        let give_up_at = now.mono + HANDSHAKE_DEADLINE;
        self.live.child = Child::Starting { epoch, give_up_at, greeting: Greeting::default() };
        out.push(Effect::Spawn(epoch));
        self.ask(now, epoch, protocol::initialize(&self.birth.version), Ask::Initialize, out);
    }

    fn fail(&mut self, now: Now, reason: String, out: &mut Vec<Effect>) {
        if let Some(epoch) = self.live.child.epoch() {
            self.end(now, epoch, Stage::Eof, Why::Hopeless(reason), out);
        }
    }

    /// A child that is no good is ended, and the next one may be better.
    pub(crate) fn end_unfit(
        &mut self,
        now: Now,
        epoch: Epoch,
        stage: Stage,
        why: String,
        out: &mut Vec<Effect>,
    ) {
        self.end(now, epoch, stage, Why::Unfit(why), out);
    }

    fn end(&mut self, now: Now, epoch: Epoch, stage: Stage, why: Why, out: &mut Vec<Effect>) {
        let (effect, grace) = match stage {
            Stage::Eof => (Effect::CloseStdin(epoch), EOF_GRACE),
            Stage::Term => (Effect::Signal { epoch, signal: Signal::Term }, TERM_GRACE),
            Stage::Kill => (Effect::Signal { epoch, signal: Signal::Kill }, KILL_GRACE),
        };
        out.push(effect);
        self.live.child = Child::Ending { epoch, stage, next_at: now.mono + grace, why };
    }

    fn finish(&mut self, now: Now, reason: &str, out: &mut Vec<Effect>) {
        self.show_waiting(|_| true, out);
        self.emit(now, Event::DaemonStopping { reason: reason.to_owned() }, out);
        out.push(Effect::Exit);
    }

    fn answer_all(&mut self, reason: &str, out: &mut Vec<Effect>) {
        self.live.starting.clear();
        for id in self.live.requests.clear() {
            let outcome = Err(protocol::unavailable(&format!(
                "ended before it answered ({reason}); whether it acted is not known, and a request with an \
                 Idempotency-Key may be sent again to learn it"
            )));
            self.reply(id, outcome, out);
        }
    }

    fn refuse_parked(&mut self, why: &str, out: &mut Vec<Effect>) {
        for parked in std::mem::take(&mut self.live.parked) {
            self.reply(parked.caller.id, Err(protocol::unavailable(why)), out);
        }
    }
}

impl Memory {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Takes a death in: how long to wait, and whether this is a crash loop.
    fn death(&mut self, now: Duration, steady: bool) -> (Duration, bool) {
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|&at| at + CRASH_LOOP_WINDOW < now) {
            self.deaths.pop_front();
        }
        self.in_a_row = if steady { 0 } else { self.in_a_row };
        let wait = BACKOFF_SECONDS[self.in_a_row.min(BACKOFF_SECONDS.len() - 1)];
        self.in_a_row += 1;
        (Duration::from_secs(wait), self.deaths.len() >= CRASH_LOOP_DEATHS)
    }
}
