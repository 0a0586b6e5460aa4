//! What codexd answers, which conductor passes on as it is. An optional value may be `null`.

use crate::wire::{Field, Record};

macro_rules! record {
    ($(#[$doc:meta])* $constant:ident $name:literal { $($fields:tt)* }) => {
        $(#[$doc])* pub static $constant: Record = Record { name: $name, fields: crate::fields![$($fields)*] };
    };
}

record! {
    /// A session.
    SESSION_RECORD "Session" {
        required "sessionId": string, "Its name here.";
        required "purpose": one_of("duplex", "worker"), "A conversation, or work of a task.";
        required "threadId": string, "The child's name for it.";
        required "status": one_of("active", "closed"), "Whether it takes turns.";
        required "endpoint": string, "How the child is reached.";
        optional "childPid": integer, "The child that would serve it now.";
        required "createdAt": string, "RFC 3339.";
        required "updatedAt": string, "RFC 3339.";
        optional "cwd": string, "The folder it works in.";
        optional "model": string, "Model of the turns.";
        optional "modelProvider": string, "Who serves the model.";
        optional "serviceTier": string, "Tier of the model's service.";
        optional "reasoningEffort": string, "How much the model reasons.";
        optional "currentTurnId": string, "The turn that runs.";
        optional "lastTurnId": string, "The newest turn.";
        optional "lastTurnStatus": one_of("accepted", "inProgress", "completed", "failed", "interrupted"), "How that stands.";
        optional "metadata": object, "As the caller gave it.";
    }
}

record! {
    /// An event.
    EVENT_RECORD "Event" {
        required "seq": integer(1, i64::MAX), "Its number; there are no gaps.";
        required "createdAt": string, "RFC 3339.";
        required "level": one_of("debug", "info", "warn", "error"), "How much it matters.";
        required "type": string, "As turn.accepted, or app-server. and the child's notification.";
        required "message": string, "A sentence.";
        required "detail": object, "What belongs to the type; sessionId, threadId and turnId where they apply.";
    }
}

record! {
    /// What the agent waits for.
    APPROVAL_RECORD "Approval" {
        required "approvalId": string, "Its name.";
        required "kind": one_of("command", "fileChange", "question"), "What is wanted.";
        required "sessionId": string, "The session.";
        required "threadId": string, "The child's name for that.";
        optional "turnId": string, "The turn that waits.";
        optional "itemId": string, "The item of the turn.";
        required "requestedAt": string, "RFC 3339.";
        required "deadlineAt": string, "It is declined then.";
        required "request": object, "What is asked, in the child's words.";
    }
}

record! {
    /// An approval that was answered.
    ANSWERED_RECORD "AnsweredApproval" {
        required "approvalId": string, "Its name.";
        required "kind": one_of("command", "fileChange", "question"), "What was wanted.";
        required "sessionId": string, "The session.";
        required "threadId": string, "The child's name for that.";
        optional "turnId": string, "The turn that waited.";
        optional "itemId": string, "The item of the turn.";
        required "requestedAt": string, "RFC 3339.";
        required "deadlineAt": string, "It would have been declined then.";
        required "request": object, "What was asked, in the child's words.";
        required "resolution": one_of("answered"), "How it ended.";
        optional "decision": string, "The decision that was given.";
        optional "answers": object, "The answers that were given.";
    }
}

record! {
    /// What became of a turn.
    TURN_RECORD "Turn" {
        required "turnId": string, "Its name.";
        optional "status": string, "accepted or inProgress; completed, failed or interrupted once it has ended.";
        optional "text": string, "What the agent said last.";
        required "truncated": boolean, "Whether some of the text is missing.";
        optional "usage": object, "Tokens, as the child counts them.";
        optional "error": string, "Why it failed or was interrupted.";
    }
}

record! {
    /// What a turn was asked with.
    INPUT_RECORD "TurnInput" {
        required "seq": integer(1, i64::MAX), "Number of its event.";
        required "at": string, "RFC 3339.";
        required "steered": boolean, "Whether it came while the turn ran.";
        optional "items": any, "Input items.";
        required "truncated": boolean, "Whether some of it is missing.";
    }
}

record! {
    /// What the agent said.
    MESSAGE_RECORD "TurnMessage" {
        required "seq": integer(1, i64::MAX), "Number of its event.";
        required "at": string, "RFC 3339.";
        optional "text": string, "The text.";
        required "truncated": boolean, "Whether some of it is missing.";
    }
}

record! {
    /// A command that the agent ran.
    COMMAND_RECORD "TurnCommand" {
        required "seq": integer(1, i64::MAX), "Number of its event.";
        required "at": string, "RFC 3339.";
        optional "status": string, "As the child says; closed if no end of it was told.";
        optional "reason": string, "Why it is closed.";
        optional "command": any, "What was run.";
        optional "cwd": string, "Where.";
        optional "exitCode": integer, "How it ended.";
        optional "durationMs": integer, "How long it took.";
        optional "output": string, "What it printed.";
        required "truncated": boolean, "Whether some of it is missing.";
    }
}

record! {
    /// A file that the agent changed.
    FILE_CHANGE_RECORD "TurnFileChange" {
        required "seq": integer(1, i64::MAX), "Number of its event.";
        required "at": string, "RFC 3339.";
        optional "status": string, "As the child says; closed if no end of it was told.";
        optional "reason": string, "Why it is closed.";
        optional "path": string, "The file.";
        optional "kind": any, "add, update or delete.";
        optional "movePath": string, "Where it went.";
        optional "diff": string, "What changed.";
        required "truncated": boolean, "Whether some of it is missing.";
    }
}

record! {
    /// Anything else that happened in a turn.
    OTHER_RECORD "TurnOther" {
        required "seq": integer(1, i64::MAX), "Number of its event.";
        required "at": string, "RFC 3339.";
        optional "item": any, "As the child told it.";
        required "truncated": boolean, "Whether some of it is missing.";
    }
}

record! {
    /// A turn as a person reads it back.
    TRANSCRIPT_TURN_RECORD "TranscriptTurn" {
        optional "turnId": string, "Its name, once it has one.";
        required "status": string, "requested, accepted or inProgress; completed, failed or interrupted.";
        required "startedAt": string, "RFC 3339.";
        optional "endedAt": string, "RFC 3339.";
        required "input": records(&INPUT_RECORD), "What it was asked.";
        optional "text": string, "What the agent said last.";
        required "truncated": boolean, "Whether some of that text is missing.";
        required "messages": records(&MESSAGE_RECORD), "What it said.";
        required "commands": records(&COMMAND_RECORD), "What it ran.";
        required "fileChanges": records(&FILE_CHANGE_RECORD), "What it changed.";
        required "others": records(&OTHER_RECORD), "What else it did.";
        optional "usage": object, "Tokens, as the child counts them.";
        optional "error": string, "Why it failed or was interrupted.";
        required "omitted": integer(0, i64::MAX), "Things for which this page had no room.";
    }
}

record! {
    /// Events that are no longer retained.
    GAP_RECORD "Gap" {
        required "fromSeq": integer, "The first one.";
        required "toSeq": integer, "The last one.";
    }
}

record! {
    /// The daemon's own address.
    SERVICE_RECORD "Service" {
        required "configuredBaseUrl": string, "As configured.";
        required "eventStreamPath": string, "Path of the events.";
        required "eventStreamUrl": string, "The WebSocket.";
        required "listening": boolean, "Always true.";
        required "resolvedBaseUrl": string, "As bound.";
        required "websocketClients": integer(0, i64::MAX), "How many follow the events by WebSocket.";
    }
}

record! {
    /// codexd's names.
    IDENTITY_RECORD "Identity" {
        optional "daemonId": string, "Of this state directory.";
        required "nodeId": string, "Of the node.";
        required "repoRoot": string, "Where it works.";
        optional "version": string, "Of the program.";
    }
}

record! {
    /// The app-server.
    CHILD_RECORD "Child" {
        required "endpoint": string, "How it is reached.";
        optional "lastError": string, "Why it ended, or does not come up.";
        optional "pid": integer, "While it runs.";
        required "status": one_of("idle", "starting", "running", "backoff", "stopped", "failed"), "How it is.";
        required "strategy": one_of("spawn", "external"), "Whether codexd starts it.";
        optional "version": string, "Of the CLI.";
        optional "warning": string, "What is wrong with it, though it works.";
        required "restarts": integer(0, i64::MAX), "How often it ended by itself.";
        optional "loginRequired": boolean, "Whether a login is missing.";
    }
}

record! {
    /// The process.
    DAEMON_RECORD "Daemon" {
        required "started": boolean, "Whether it runs.";
        optional "startedAt": string, "RFC 3339.";
        required "updatedAt": string, "The time of the newest event.";
        optional "pid": integer, "Its number.";
        optional "processStartedAt": string, "RFC 3339.";
        required "child": record(&CHILD_RECORD), "The app-server.";
    }
}

record! {
    /// The newest sessions.
    REGISTRY_RECORD "SessionRegistry" {
        required "updatedAt": string, "RFC 3339.";
        required "sessions": records(&SESSION_RECORD), "The newest 200, oldest first.";
        required "count": integer(0, i64::MAX), "How many there are.";
        required "activeCount": integer(0, i64::MAX), "How many take turns.";
    }
}

record! {
    /// The newest events.
    RECENT_RECORD "RecentEvents" {
        required "updatedAt": string, "RFC 3339.";
        required "events": records(&EVENT_RECORD), "The newest 200, oldest first, without deltas; details are cut.";
    }
}

record! {
    /// Kept for old readers.
    RUNS_RECORD "RunRegistry" {
        required "runs": array, "Always empty.";
    }
}

record! {
    /// Sizes on disk.
    DISK_RECORD "Disk" {
        required "logBytes": integer(0, i64::MAX), "The event log.";
        required "oldestSeq": integer(1, i64::MAX), "The first event that it retains.";
        required "latestSeq": integer(0, i64::MAX), "The newest event.";
        required "transcriptsBytes": integer(0, i64::MAX), "The transcripts.";
        optional "stateBytes": integer(0, i64::MAX), "All of the state.";
        optional "codexHomeBytes": integer(0, i64::MAX), "The child's own home, if it is codexd's child.";
    }
}

record! {
    /// All of it, in short.
    SNAPSHOT_RECORD "Snapshot" {
        required "identity": record(&IDENTITY_RECORD), "Its names.";
        required "daemon": record(&DAEMON_RECORD), "The process and its child.";
        required "sessionRegistry": record(&REGISTRY_RECORD), "The newest sessions.";
        required "recentEvents": record(&RECENT_RECORD), "The newest events.";
        required "runRegistry": record(&RUNS_RECORD), "Kept for old readers.";
        required "disk": record(&DISK_RECORD), "Sizes on disk.";
    }
}

/// Of the status.
pub const STATUS_ANSWER: &[Field] = crate::fields![
    required "service": record(&SERVICE_RECORD), "The daemon's address.";
    required "snapshot": record(&SNAPSHOT_RECORD), "Its state.";
];

/// Of the list of sessions.
pub const SESSIONS_ANSWER: &[Field] = crate::fields![
    required "sessions": records(&SESSION_RECORD), "In order of creation.";
    optional "nextCursor": string, "As `cursor`: the page of older ones.";
];

/// Of whatever changes a session.
pub const SESSION_ANSWER: &[Field] = crate::fields![
    required "session": record(&SESSION_RECORD), "The session.";
];

/// Of a session's read.
pub const SESSION_READ_ANSWER: &[Field] = crate::fields![
    required "session": record(&SESSION_RECORD), "The session.";
    required "recentEvents": records(&EVENT_RECORD), "Its newest 50, without deltas; details are cut.";
    required "pendingApprovals": records(&APPROVAL_RECORD), "What its agent waits for.";
];

/// Of a new turn.
pub const TURN_ANSWER: &[Field] = crate::fields![
    required "accepted": boolean, "Always true.";
    required "session": record(&SESSION_RECORD), "The session.";
    required "turnId": string, "The turn.";
    optional "turn": record(&TURN_RECORD), "What became of it, if it ended within `waitMs`.";
];

/// Of a turn's read.
pub const TURN_READ_ANSWER: &[Field] = crate::fields![
    required "turn": record(&TURN_RECORD), "The turn.";
];

/// Of a transcript.
pub const TRANSCRIPT_ANSWER: &[Field] = crate::fields![
    required "turns": records(&TRANSCRIPT_TURN_RECORD), "Oldest first.";
    optional "nextCursor": string, "As `cursor`: the page of older ones.";
    required "truncated": boolean, "Whether older ones were removed.";
];

/// Of a page of events.
pub const EVENTS_ANSWER: &[Field] = crate::fields![
    required "logId": string, "Names the log; changes only if that was lost.";
    required "oldestSeq": integer(1, i64::MAX), "The first event that is retained.";
    required "latestSeq": integer(0, i64::MAX), "The newest event.";
    optional "gap": record(&GAP_RECORD), "What was asked for and is not retained.";
    required "events": records(&EVENT_RECORD), "In order.";
    required "nextAfter": integer(0, i64::MAX), "As `after`: the next page.";
];

/// Of the list of approvals.
pub const APPROVALS_ANSWER: &[Field] = crate::fields![
    required "approvals": records(&APPROVAL_RECORD), "Oldest first.";
];

/// Of an answered approval.
pub const APPROVAL_ANSWER: &[Field] = crate::fields![
    required "approval": record(&ANSWERED_RECORD), "The approval, and how it ended.";
];

/// Of the list of models.
pub const MODELS_ANSWER: &[Field] = crate::fields![
    optional "models": array, "As the child tells them, each an object with `id`.";
];
