//! What codexd's routes take, and where they are: the one contract both daemons share.
//!
//! codexd parses by these tables; conductor forwards only the fields that they name. What codexd answers conductor passes
//! on as it is; `answers` tells it to documents.

mod answers;

pub use answers::*;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::wire::Field;

/// Turns, as their example has it: a body for `$SESSION`.
pub const TURN_EXAMPLE: &str = r#"{"sessionId":"$SESSION","input":"Say hello."}"#;
/// A decision.
pub const APPROVAL_EXAMPLE: &str = r#"{"decision":"accept"}"#;
/// A session in the folder where the line is run.
pub const SESSION_EXAMPLE: &str = r#"{"cwd":"$PWD","purpose":"duplex"}"#;

/// Service and snapshot.
pub const STATUS: &str = "/v1/codexd/status";
/// The list of sessions, and their creation.
pub const SESSIONS: &str = "/v1/codexd/sessions";
/// One session.
pub const SESSION: &str = "/v1/codexd/sessions/:id";
/// A new turn, or a word into the running one.
pub const TURN: &str = "/v1/codexd/turn";
/// One turn, read back.
pub const TURN_READ: &str = "/v1/codexd/turns/:id";
/// Events, as a page, as SSE or as a WebSocket.
pub const EVENTS: &str = "/v1/codexd/events";
/// Ends the running turn of a session.
pub const INTERRUPT: &str = "/v1/codexd/sessions/:id/interrupt";
/// Ends a session.
pub const CLOSE: &str = "/v1/codexd/sessions/:id/close";
/// A session's turns as a person would read them.
pub const TRANSCRIPT: &str = "/v1/codexd/sessions/:id/transcript";
/// What the agent waits for.
pub const APPROVALS: &str = "/v1/codexd/approvals";
/// The answer to it.
pub const APPROVAL: &str = "/v1/codexd/approvals/:id";
/// The child's list of models.
pub const MODELS: &str = "/v1/codexd/models";

/// What stays as it is in a path segment or a query value; all else is percent-encoded, dots too: `..` is no step up.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// A value as it stands in a path or a query.
pub fn encoded(value: &str) -> String {
    utf8_percent_encode(value, ENCODED).to_string()
}

/// A path of these with an id in its place, which it cannot leave.
pub fn with_id(path: &str, id: &str) -> String {
    path.replace(":id", &encoded(id))
}

/// The longest a call may wait for the end of a turn, in milliseconds: ten minutes.
pub const MAX_WAIT_MS: i64 = 600_000;
/// Sessions or events of one page.
pub const MAX_PAGE: i64 = 1000;
/// Turns of a page of a transcript that does not say how many it wants.
pub const TRANSCRIPT_PAGE: i64 = 100;
/// Events of a page that does not say how many it wants.
pub const EVENTS_PAGE: i64 = 100;
/// The longest deadline of a turn, in milliseconds: a week.
pub const MAX_TURN_MS: i64 = 604_800_000;
/// The longest type of an event that is looked for; the child's own have 60 bytes at most.
pub const MAX_TYPE_BYTES: usize = 256;

crate::body! {
    /// Body of a session's creation. All but `metadata` and `purpose` reach the child.
    pub struct SessionCreate {
        optional approval_policy "approvalPolicy": any, "When the agent asks: untrusted, on-request, never, or an object.";
        optional base_instructions "baseInstructions": string, "Replaces the model's instructions.";
        optional config "config": object, "Overrides of the child's configuration, by dotted key.";
        optional cwd "cwd": string, "Absolute path of the folder to work in.";
        optional developer_instructions "developerInstructions": string, "Goes before the conversation.";
        optional ephemeral "ephemeral": boolean, "The child keeps nothing of it on disk.";
        optional metadata "metadata": object, "The caller's own; comes back with the session.";
        optional model "model": string, "Model of the turns.";
        optional model_provider "modelProvider": string, "Who serves the model, as the child's configuration names it.";
        optional personality "personality": string, "Tone of the agent.";
        optional purpose "purpose": one_of("duplex", "worker"), "A conversation (duplex, the default), or work of a task.";
        optional sandbox "sandbox": one_of("read-only", "workspace-write", "danger-full-access"), "What commands may touch.";
        optional service_tier "serviceTier": string, "Tier of the model's service.";
        optional thread_id "threadId": string, "Resumes this thread instead of starting one.";
    }
}

crate::body! {
    /// Body of a turn.
    pub struct TurnCreate {
        required session_id "sessionId": string, "The session.";
        required input "input": any, "A text, or a list of app-server input items.";
        optional approval_policy "approvalPolicy": any, "As in a session; holds for later turns too.";
        optional collaboration_mode "collaborationMode": object, "How the agent works with the user.";
        optional cwd "cwd": string, "Absolute path; holds for later turns too.";
        optional effort "effort": string, "How much the model reasons.";
        optional expected_turn_id "expectedTurnId": string, "Steers this running turn instead of starting one.";
        optional model "model": string, "Model of this and later turns.";
        optional output_schema "outputSchema": any, "JSON Schema of this turn's answer.";
        optional personality "personality": string, "Tone of the agent.";
        optional sandbox_policy "sandboxPolicy": object, "Sandbox of this and later turns: an object with type readOnly, workspaceWrite or dangerFullAccess.";
        optional service_tier "serviceTier": string, "Tier of the model's service.";
        optional summary "summary": string, "auto, concise, detailed or none.";
        optional timeout_ms "timeoutMs": integer(1, MAX_TURN_MS), "The turn is interrupted when it has run for so long; never by default.";
    }
}

crate::body! {
    /// Body of the answer to an approval or a question: one of the two.
    pub struct ApprovalAnswer {
        optional decision "decision": one_of("accept", "acceptForSession", "acceptWithExecpolicyAmendment", "decline", "cancel"), "What may happen; acceptWithExecpolicyAmendment also writes a rule that holds for good.";
        optional answers "answers": object, "For a question: by its id a text, a list of texts, or the child's own object.";
    }
}

/// Query of the list of sessions.
pub const SESSIONS_QUERY: &[Field] = crate::fields![
    optional "status": one_of("active", "closed"), "Only sessions in this state.";
    optional "purpose": one_of("duplex", "worker"), "Only sessions for this.";
    optional "limit": integer(1, MAX_PAGE), "How many at most; 1000 by default.";
    optional "cursor": string, "`nextCursor` of the page before.";
];

/// Query of a transcript.
pub const TRANSCRIPT_QUERY: &[Field] = crate::fields![
    optional "limit": integer(1, MAX_PAGE), "How many turns at most; 100 by default, and fewer where they are large.";
    optional "cursor": string, "`nextCursor` of the page before.";
];

/// Query of a turn.
pub const TURN_QUERY: &[Field] = crate::fields![
    optional "waitMs": integer(0, MAX_WAIT_MS), "Waits so long for the end of the turn.";
];

/// Query of the events.
pub const EVENTS_QUERY: &[Field] = crate::fields![
    optional "after": integer(0, i64::MAX), "Begins behind this sequence number.";
    optional "sessionId": string, "Only events of this session.";
    optional "type": string(MAX_TYPE_BYTES), "Only events of this type; a prefix ends in `.*`.";
    optional "limit": integer(1, MAX_PAGE), "Of a page: how many at most; 100 by default.";
    optional "waitMs": integer(0, MAX_WAIT_MS), "Of a page: waits so long for a first event.";
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn the_tables_have_no_faults() {
        for fields in [
            SessionCreate::FIELDS,
            TurnCreate::FIELDS,
            ApprovalAnswer::FIELDS,
            SESSIONS_QUERY,
            TRANSCRIPT_QUERY,
            TURN_QUERY,
            EVENTS_QUERY,
            STATUS_ANSWER,
            SESSIONS_ANSWER,
            SESSION_READ_ANSWER,
            TURN_ANSWER,
            TRANSCRIPT_ANSWER,
            EVENTS_ANSWER,
            APPROVALS_ANSWER,
            APPROVAL_ANSWER,
            MODELS_ANSWER,
        ] {
            assert_eq!(wire::faults(fields), Vec::<String>::new());
        }
    }

    #[test]
    fn a_turn_needs_a_session_and_an_input() {
        let parse = |text: &str| TurnCreate::parse(&wire::object(text.as_bytes(), None).unwrap());
        assert_eq!(parse("{}").unwrap_err().message, "Field `sessionId` is required.");
        assert_eq!(parse(r#"{"sessionId":"s"}"#).unwrap_err().message, "Field `input` is required.");
        let turn = parse(r#"{"sessionId":"s","input":[{"type":"text","text":"hi"}],"unknown":1}"#).unwrap();
        assert_eq!((turn.session_id.as_str(), turn.input[0]["text"].as_str()), ("s", Some("hi")));
    }
}
