//! Every route of codexd, on one screen.

use common::codexd_api::{
    APPROVAL, APPROVALS, ApprovalAnswer, CLOSE, EVENTS_QUERY, INTERRUPT, MODELS, SESSION, SESSIONS,
    SESSIONS_QUERY, STATUS, SessionCreate, TRANSCRIPT, TRANSCRIPT_QUERY, TURN, TURN_QUERY, TURN_READ,
    TurnCreate,
};
use common::http::Route;

use crate::api::{self, App};
use crate::metrics;

/// The table. The event stream's path is configurable, so it is made once at start, and lives as long as the process.
pub fn table(event_stream_path: &str) -> &'static [Route<App>] {
    let event_stream_path: &'static str = String::leak(event_stream_path.to_owned());
    let rows = vec![
        Route::probe("probe.healthz", "/healthz", "Says `ok` while the process serves.", api::healthz),
        Route::probe("probe.readyz", "/readyz", "Says `ready` while app-server takes work.", api::readyz),
        Route::probe("probe.metrics", "/metrics", "Metrics in Prometheus' text format.", metrics::metrics),
        Route::read(
            "status",
            STATUS,
            "The daemon, its child, the newest sessions and recent events.",
            api::status,
        ),
        Route::read("sessions.list", SESSIONS, "The sessions in order of creation.", api::list_sessions)
            .query(SESSIONS_QUERY),
        Route::read("sessions.read", SESSION, "A session and its recent events.", api::read_session),
        Route::write(
            "sessions.create",
            SESSIONS,
            "Creates a session, or resumes a thread as one.",
            SessionCreate::FIELDS,
            api::create_session,
        )
        .success(&[201]),
        Route::write(
            "turn.create",
            TURN,
            "Starts a turn; with Accept: text/event-stream its events follow to its end.",
            TurnCreate::FIELDS,
            api::start_turn,
        )
        .query(TURN_QUERY)
        .success(&[200, 202]),
        Route::read("turns.read", TURN_READ, "One turn: status, text, usage, error.", api::read_turn)
            .query(TURN_QUERY),
        Route::write(
            "sessions.interrupt",
            INTERRUPT,
            "Ends the turn that runs, as soon as the child can hear it.",
            &[],
            api::interrupt,
        )
        .success(&[202]),
        Route::write(
            "sessions.close",
            CLOSE,
            "Ends a session and its turn; it stays readable.",
            &[],
            api::close,
        ),
        Route::read(
            "sessions.transcript",
            TRANSCRIPT,
            "The turns of a session in order, as a person reads them back.",
            api::read_transcript,
        )
        .query(TRANSCRIPT_QUERY),
        Route::read("approvals.list", APPROVALS, "What the agent waits for.", api::list_approvals),
        Route::write(
            "approvals.answer",
            APPROVAL,
            "Answers an approval or a question, once.",
            ApprovalAnswer::FIELDS,
            api::answer_approval,
        ),
        Route::read("models", MODELS, "The models that app-server knows.", api::models),
        Route::read(
            "events",
            event_stream_path,
            "The events: a page of them, or all as they come by WebSocket or SSE.",
            api::read_events,
        )
        .query(EVENTS_QUERY),
    ];
    Vec::leak(rows)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_has_no_faults() {
        assert_eq!(common::http::faults(super::table("/v1/codexd/events")), Vec::<String>::new());
    }
}
