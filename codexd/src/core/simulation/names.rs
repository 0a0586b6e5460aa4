//! Names for what happens in a life, so that what never happens shows.

use common::child::Signal;
use common::log::Seq;

use super::world::World;
use super::*;
use crate::state::{Stage, Turn};
use crate::supervise::{Stage as Kindness, Why};

pub(super) fn input(input: &Input) -> &'static str {
    match input {
        Input::Start => "input start",
        Input::Call { .. } => "input call",
        Input::Gone { .. } => "input gone",
        Input::Child { event, .. } => match event {
            FromChild::Spawned { .. } => "child spawned",
            FromChild::Connected { .. } => "child connected",
            FromChild::Answer { .. } => "child answer",
            FromChild::Notice(_) => "child notice",
            FromChild::Asked { .. } => "child asked",
            FromChild::LineDropped { .. } => "child line dropped",
            FromChild::Exited { .. } => "child exited",
        },
        Input::Tick => "input tick",
        Input::Checkpointed(_) => "input checkpointed",
        Input::TranscriptsOver(_) => "input transcripts over",
        Input::Stop(_) => "input stop",
    }
}

pub(super) fn call(call: &Call) -> &'static str {
    match call {
        Call::Readiness => "call readiness",
        Call::Status => "call status",
        Call::Sessions(_) => "call sessions",
        Call::Session { .. } => "call session",
        Call::Turn { wait, .. } if wait.is_zero() => "call turn",
        Call::Turn { .. } => "call turn wait",
        Call::Approvals => "call approvals",
        Call::Answer(_) => "call answer",
        Call::Interrupt { .. } => "call interrupt",
        Call::Close { .. } => "call close",
        Call::Work(work) => match work {
            Work::Create(create) if create.thread_id.is_some() => "work create with threadId",
            Work::Create(_) => "work create",
            Work::StartTurn(turn) if turn.expected_turn_id.is_some() => "work steer",
            Work::StartTurn(_) => "work turn",
            Work::Models => "work models",
        },
    }
}

pub(super) fn effect(effect: &Effect) -> &'static str {
    match effect {
        Effect::Append { .. } => "effect append",
        Effect::Forget { .. } => "effect forget",
        Effect::Reply { .. } => "effect reply",
        Effect::Spawn(_) => "effect spawn",
        Effect::Send { .. } => "effect send",
        Effect::CloseStdin(_) => "effect close stdin",
        Effect::Signal { signal: Signal::Kill, .. } => "effect kill",
        Effect::Signal { .. } => "effect term",
        Effect::Checkpointed(_) => "effect checkpointed",
        Effect::Exit => "effect exit",
    }
}

pub(super) fn stage(turn: &Turn) -> &'static str {
    match turn.stage {
        Stage::Requested { .. } => "turn requested",
        Stage::Accepted { .. } => "turn accepted",
        Stage::Running { .. } => "turn running",
    }
}

pub(super) fn child(child: &Child) -> &'static str {
    match child {
        Child::Down { .. } => "child is down",
        Child::Starting { .. } => "child is starting",
        Child::Up { .. } => "child is up",
        Child::Ending { why: Why::Stop, stage: Kindness::Eof, .. } => "child is stopped",
        Child::Ending { why: Why::Stop, stage: Kindness::Term, .. } => "child is stopped by TERM",
        Child::Ending { why: Why::Stop, stage: Kindness::Kill, .. } => "child is stopped by KILL",
        Child::Ending { why: Why::Unfit(_), .. } => "child is unfit",
        Child::Ending { why: Why::Hopeless(_), .. } => "child is hopeless",
    }
}

pub(super) fn reply(kind: &str, outcome: &Result<Reply, Error>) -> String {
    match outcome {
        Ok(_) => format!("reply to {kind}"),
        Err(error) => format!("reply {}", error.code.name),
    }
}

/// The session whose history this input tells, if it is in doubt.
pub(super) fn history(world: &World, input: &Input) -> Option<Seq> {
    let Input::Child { epoch, event: FromChild::Answer { rpc, .. } } = input else { return None };
    let asked = ["thread/turns/list", "thread/read"].contains(&world.methods.get(rpc)?.as_str());
    let current = world.core.live.child.epoch() == Some(*epoch);
    (asked && current).then(|| world.core.live.requests.session_of_history(*rpc)).flatten()
}

/// What came of a doubt, by what was written down since.
pub(super) fn doubt(world: &World, session: Seq, from: usize) -> &'static str {
    let lines = world.out[from..].iter().filter_map(Core::line).collect::<String>();
    let has = |kind: &str| lines.contains(&format!("\"type\":\"{kind}\""));
    let runs = world.core.state().session_by_seq(session).is_some_and(|session| session.turn.is_some());
    let left = world.core.live.doubts.contains_key(&session);
    match () {
        () if has("turn.settled") => "doubt settled",
        () if has("turn.refused") => "doubt refused",
        () if has("turn.interrupted") && lines.contains("cannot tell its history") => "doubt given up",
        () if has("turn.interrupted") => "doubt interrupted",
        () if left => "doubt in vain",
        () if has("turn.accepted") => "doubt accepted",
        () if runs => "doubt runs",
        () => "doubt over",
    }
}

/// Everything that must happen in the ordinary run, besides every event that codexd writes down.
pub(super) const EXPECTED: &[&str] = &[
    "answer lost",
    "answer late or lost",
    "call answer",
    "call approvals",
    "call close",
    "call interrupt",
    "call readiness",
    "call session",
    "call sessions",
    "call status",
    "call turn",
    "call turn wait",
    "child answer",
    "child asked",
    "child connected",
    "child exited",
    "child is down",
    "child is hopeless",
    "child is starting",
    "child is stopped",
    "child is stopped by KILL",
    "child is stopped by TERM",
    "child is unfit",
    "child is up",
    "child line dropped",
    "child notice",
    "child spawned",
    "commit failed",
    "commit failed at start",
    "crash after the write",
    "crash before effect append",
    "crash before effect close stdin",
    "crash before effect exit",
    "crash before effect forget",
    "crash before effect kill",
    "crash before effect reply",
    "crash before effect send",
    "crash before effect spawn",
    "crash before effect term",
    "crash before the write",
    "crash inside the write",
    "death",
    "doubt accepted",
    "doubt given up",
    "doubt in vain",
    "doubt interrupted",
    "doubt over",
    "doubt refused",
    "doubt runs",
    "doubt settled",
    "effect append",
    "effect checkpointed",
    "effect close stdin",
    "effect exit",
    "effect forget",
    "effect kill",
    "effect reply",
    "effect send",
    "effect spawn",
    "effect term",
    "event approval.requested",
    "event approval.resolved",
    "event child.connected",
    "event child.exited",
    "event child.failed",
    "event child.line_dropped",
    "event child.ready",
    "event child.request_refused",
    "event child.spawned",
    "event daemon.started",
    "event daemon.stopping",
    "event item.closed",
    "event log.created",
    "event session.closed",
    "event session.created",
    "event session.removed",
    "event session.resumed",
    "event transcript.removed",
    "event turn.accepted",
    "event turn.interrupt_requested",
    "event turn.interrupted",
    "event turn.refused",
    "event turn.requested",
    "event turn.settled",
    "event turn.steered",
    "hang",
    "input call",
    "input checkpointed",
    "input gone",
    "input start",
    "input stop",
    "input tick",
    "input transcripts over",
    "interrupt not heard",
    "reply app_server_error",
    "reply app_server_timeout",
    "reply app_server_unavailable",
    "reply conflict",
    "reply invalid_request",
    "reply not_found",
    "reply to answer",
    "reply to close",
    "reply to interrupt",
    "reply to read",
    "reply to wait",
    "reply to work",
    "reply too_many_requests",
    "request lost",
    "request overloaded",
    "request refused",
    "stale line",
    "turn accepted",
    "turn requested",
    "turn running",
    "turn sent",
    "turn unasked",
    "work create",
    "work create with threadId",
    "work models",
    "work steer",
    "work turn",
];
