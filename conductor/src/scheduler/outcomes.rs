//! What comes of the things that are done for runs, and of what codexd tells: the part of the step that takes them in.

use std::sync::Arc;
use std::time::Duration;

use common::log::Seq;
use common::time::{Now, Timestamp};

use super::{MAX_CUT_OFFS, MAX_LINE_BYTES, MAX_RUN_LINES, News, Ran, Stream, Ticket, TurnEnd, Worked, pause};
use crate::core::{Core, Effect};
use crate::event::{Event, Level};
use crate::state::{Fault, Outcome, Place, Run, Status};

impl Core {
    /// Takes in what came of something that was done for a run.
    pub(crate) fn worked(&mut self, now: Now, ticket: Ticket, worked: Worked, out: &mut Vec<Effect>) {
        let seq = ticket.run;
        let Some(run) = self.state.tasks().run(seq).cloned() else { return };
        let hand = self.live.hands.entry(seq).or_default();
        // It may be told twice, and late.
        if hand.busy && ticket.step == run.step_index && hand.ticket.is_none_or(|asked| asked == ticket) {
            (hand.busy, hand.killed) = (false, false);
        } else if !matches!(worked, Worked::Opened { .. } | Worked::Closed) {
            return;
        }
        if let Worked::Unavailable(_) = worked {
            hand.not_before = Some(now.mono + pause(hand.failures));
            hand.failures += 1;
        } else {
            (hand.not_before, hand.failures) = (None, 0);
        }
        let run_id = self.state.id("run", seq);
        match worked {
            Worked::Closed => self.emit(now, Event::RunSessionClosed { run_id }, out),
            Worked::Lost(_) | Worked::Failed(_) | Worked::Refused(_) if run.status != Status::Running => {
                self.emit(now, Event::RunSessionClosed { run_id }, out); // there is nothing left to close
            }
            Worked::Opened { session_id, thread_id } if run.session_id.is_none() => {
                self.emit(now, Event::RunSession { run_id, session_id, thread_id }, out);
            }
            _ if run.status != Status::Running => {}
            Worked::Taken { turn_id } if matches!(run.place, Place::Begun { .. }) => {
                self.emit(now, Event::StepAccepted { run_id, turn_id }, out);
            }
            Worked::Looked(None) => {
                let hand = self.live.hands.entry(seq).or_default();
                hand.watching = !std::mem::take(&mut hand.over);
            }
            Worked::Looked(Some(end)) => self.turn_ended(now, &run, end, out),
            Worked::Ran(ran) => self.command_ended(now, &run, ran, out),
            Worked::Unavailable(why) => {
                let failures = self.live.hands.get(&seq).map_or(0, |hand| hand.failures);
                if failures == 1 {
                    self.note(
                        now,
                        &run,
                        Level::Warn,
                        &format!("codexd cannot be asked, and is tried again: {why}"),
                        None,
                        out,
                    );
                }
            }
            Worked::Failed(fault) => self.end(now, &run, Status::Failed, Some(fault), true, out),
            Worked::Refused(fault) => self.end(now, &run, Status::Failed, Some(fault), false, out),
            Worked::Lost(why) => self.cut_off(now, &run, &why, out),
            Worked::Opened { .. } | Worked::Taken { .. } => {}
        }
    }

    /// Takes in what codexd tells.
    pub(crate) fn heard(&mut self, now: Now, epoch: u64, news: News, out: &mut Vec<Effect>) {
        if epoch != self.live.epoch {
            return; // of a stream that was replaced
        }
        match news {
            News::Connected { latest } => {
                self.live.stream = Stream::On { latest };
                self.look_again();
            }
            News::Gone(_) => {
                let failures =
                    if let Stream::Connecting { failures } = self.live.stream { failures } else { 0 };
                self.live.stream = Stream::Down { until: now.mono + pause(failures), failures: failures + 1 };
            }
            News::Gap { to } => {
                self.live.stream = Stream::On { latest: to };
                for run in self.running() {
                    if run.session_id.is_some() {
                        self.note(now, &run, Level::Warn, "Some events of codexd are lost.", Some(to), out);
                    }
                }
                self.look_again();
            }
            News::Told { seq, session_id, line, turn_over } => {
                if let Stream::On { latest } = &mut self.live.stream {
                    *latest = seq.max(*latest);
                }
                let of =
                    |run: &Arc<Run>| run.session_id.as_ref() == Some(&session_id) && run.codexd_seq < seq;
                let Some(run) = self.running().into_iter().find(of) else { return };
                if let Some((level, text)) = line {
                    self.note(now, &run, level, &text, Some(seq), out);
                }
                if turn_over {
                    let hand = self.live.hands.entry(run.seq).or_default();
                    (hand.watching, hand.over) = (false, hand.busy);
                }
            }
        }
    }

    /// Has every turn looked at that was thought to run.
    fn look_again(&mut self) {
        self.live.hands.values_mut().for_each(|hand| hand.watching = false);
    }

    fn turn_ended(&mut self, now: Now, run: &Run, end: TurnEnd, out: &mut Vec<Effect>) {
        let Some(begun) = run.place.begun_at() else { return };
        let why = end.error.unwrap_or_else(|| format!("The turn is {}.", end.status));
        match end.status.as_str() {
            "completed" => {
                let duration_ms = now.wall.millis().saturating_sub(begun.millis());
                let outcome = Outcome { text: end.text, usage: end.usage, exit_code: None, duration_ms };
                self.step_done(now, run, outcome, out);
            }
            "interrupted" => self.cut_off(now, run, &why, out),
            _ => self.end(now, run, Status::Failed, fault("turn_failed", why), true, out),
        }
    }

    fn command_ended(&mut self, now: Now, run: &Run, ran: Ran, out: &mut Vec<Effect>) {
        if run.place == Place::Between {
            return;
        }
        if !ran.output.is_empty() {
            self.note(now, run, Level::Info, &ran.output, None, out);
        }
        let task = self.state.tasks().task(run.task);
        let cancelled = task.is_some_and(|task| task.cancel.is_some());
        let late =
            task.is_some_and(|task| run.started_at.millis() + task.spec.timeout_ms <= now.wall.millis());
        match ran.fault {
            None => {
                self.note(now, run, Level::Info, "The command ended with exit code 0.", None, out);
                let (exit_code, duration_ms) = (ran.exit_code, ran.duration_ms);
                let text = Some(ran.output).filter(|text| !text.is_empty());
                self.step_done(now, run, Outcome { text, usage: None, exit_code, duration_ms }, out);
            }
            Some(_) if cancelled => self.end(now, run, Status::Canceled, None, false, out),
            Some(_) if ran.unwanted && !late => {
                self.cut_off(now, run, "conductor stopped while the command ran.", out);
            }
            Some(_) if ran.unwanted => {
                let timeout = task.map_or(0, |task| task.spec.timeout_ms);
                self.end(now, run, Status::Failed, timed_out(timeout), true, out);
            }
            Some(fault) => self.end(now, run, Status::Failed, Some(fault), true, out),
        }
    }

    fn step_done(&mut self, now: Now, run: &Run, outcome: Outcome, out: &mut Vec<Effect>) {
        let run_id = self.state.id("run", run.seq);
        self.emit(now, Event::StepFinished { run_id, step_index: run.step_index, outcome }, out);
        self.live.hands.entry(run.seq).or_default().watching = false;
    }

    /// The step was begun, and nobody knows its end: it is begun again, and not counted as a failure, within a bound.
    pub(super) fn cut_off(&mut self, now: Now, run: &Run, why: &str, out: &mut Vec<Effect>) {
        let cut_offs = self.state.tasks().task(run.task).map_or(0, |task| task.cut_off);
        let again = cut_offs + 1 < MAX_CUT_OFFS;
        self.end(now, run, Status::Interrupted, fault("cut_off", why.to_owned()), again, out);
    }

    /// Ends a run; `again` says whether the task may be tried again.
    pub(super) fn end(
        &mut self,
        now: Now,
        run: &Run,
        status: Status,
        error: Option<Fault>,
        again: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(task) = self.state.tasks().task(run.task).cloned() else { return };
        let failures = task.failures + u64::from(status == Status::Failed);
        let again = again && failures < task.spec.max_attempts;
        let after = pause(u32::try_from(task.runs.len().saturating_sub(1)).unwrap_or(u32::MAX));
        let wait = if status == Status::Interrupted { Duration::ZERO } else { after };
        let retry_at = again.then(|| Timestamp::from_millis(now.wall.millis() + crate::config::millis(wait)));
        if let Some(error) = &error {
            let next = match again {
                true => "The step is begun again.",
                false => "It is not tried again.",
            };
            let why = error.message.trim_end_matches('.');
            let text = format!("Attempt {} {}: {why}. {next}", run.attempt, how(status));
            self.note(now, run, Level::Error, &text, None, out);
        }
        if let (Status::Canceled, Some(why)) = (status, &task.cancel) {
            self.note(now, run, Level::Error, &format!("Canceled: {why}."), None, out);
        }
        let run_id = self.state.id("run", run.seq);
        self.emit(now, Event::RunEnded { run_id, status, error, retry_at }, out);
        self.live.hands.remove(&run.seq);
        self.advance(now, run.seq, out); // its session
    }

    /// Writes a line into a run's log, within its bound.
    pub(super) fn note(
        &mut self,
        now: Now,
        run: &Run,
        level: Level,
        text: &str,
        codexd_seq: Option<Seq>,
        out: &mut Vec<Effect>,
    ) {
        let lines = self.state.tasks().run(run.seq).map_or(0, |run| run.lines);
        // What tells how it ended is always told.
        let message = match lines {
            _ if level == Level::Error => text,
            0..MAX_RUN_LINES => text,
            MAX_RUN_LINES => "Further lines of this run are left out.",
            _ => return,
        };
        let message = cut(message);
        let (run_id, task_id) = (self.state.id("run", run.seq), self.state.id("task", run.task));
        self.emit(now, Event::RunLine { run_id, task_id, level, message, codexd_seq }, out);
    }
}

/// How an attempt ended, in a sentence.
fn how(status: Status) -> &'static str {
    if status == Status::Interrupted { "was interrupted" } else { "failed" }
}

pub(super) fn timed_out(timeout_ms: u64) -> Option<Fault> {
    fault("timeout", format!("The attempt took longer than {timeout_ms} ms."))
}

fn fault(code: &str, message: String) -> Option<Fault> {
    Some(Fault { code: code.to_owned(), message })
}

/// A line, up to its bound.
fn cut(text: &str) -> String {
    match text.len() > MAX_LINE_BYTES {
        true => format!("{} …", &text[..text.floor_char_boundary(MAX_LINE_BYTES)]),
        false => text.to_owned(),
    }
}
