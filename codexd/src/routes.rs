//! Every route of codexd, on one screen.

use common::codexd_api::{
    APPROVAL, APPROVAL_ANSWER, APPROVAL_EXAMPLE, APPROVALS, APPROVALS_ANSWER, ApprovalAnswer, CLOSE,
    EVENTS_ANSWER, EVENTS_QUERY, INTERRUPT, MODELS, MODELS_ANSWER, SESSION, SESSION_ANSWER, SESSION_EXAMPLE,
    SESSION_READ_ANSWER, SESSIONS, SESSIONS_ANSWER, SESSIONS_QUERY, STATUS, STATUS_ANSWER, SessionCreate,
    TRANSCRIPT, TRANSCRIPT_ANSWER, TRANSCRIPT_QUERY, TURN, TURN_ANSWER, TURN_EXAMPLE, TURN_QUERY, TURN_READ,
    TURN_READ_ANSWER, TurnCreate,
};
use common::http::{Asks, Route, Surface};

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
        )
        .returns(STATUS_ANSWER),
        Route::read("sessions.list", SESSIONS, "The sessions in order of creation.", api::list_sessions)
            .query(SESSIONS_QUERY)
            .returns(SESSIONS_ANSWER),
        Route::read("sessions.read", SESSION, "A session and its recent events.", api::read_session)
            .returns(SESSION_READ_ANSWER),
        Route::write(
            "sessions.create",
            SESSIONS,
            "Creates a session, or resumes a thread as one.",
            SessionCreate::FIELDS,
            api::create_session,
        )
        .success(&[201])
        .keyed()
        .asks(Asks::AppServer)
        .example(SESSION_EXAMPLE)
        .returns(SESSION_ANSWER),
        Route::write(
            "turn.create",
            TURN,
            "Starts a turn; with Accept: text/event-stream its events follow to its end.",
            TurnCreate::FIELDS,
            api::start_turn,
        )
        .query(TURN_QUERY)
        .success(&[200, 202])
        .streams()
        .keyed()
        .asks(Asks::AppServer)
        .example(TURN_EXAMPLE)
        .returns(TURN_ANSWER),
        Route::read("turns.read", TURN_READ, "One turn: status, text, usage, error.", api::read_turn)
            .query(TURN_QUERY)
            .returns(TURN_READ_ANSWER),
        Route::write(
            "sessions.interrupt",
            INTERRUPT,
            "Ends the turn that runs, as soon as the child can hear it.",
            &[],
            api::interrupt,
        )
        .success(&[202])
        .after("turn.create")
        .returns(SESSION_ANSWER),
        Route::write(
            "sessions.close",
            CLOSE,
            "Ends a session and its turn; it stays readable.",
            &[],
            api::close,
        )
        .returns(SESSION_ANSWER),
        Route::read(
            "sessions.transcript",
            TRANSCRIPT,
            "The turns of a session in order, as a person reads them back.",
            api::read_transcript,
        )
        .query(TRANSCRIPT_QUERY)
        .returns(TRANSCRIPT_ANSWER),
        Route::read("approvals.list", APPROVALS, "What the agent waits for.", api::list_approvals)
            .returns(APPROVALS_ANSWER),
        Route::write(
            "approvals.answer",
            APPROVAL,
            "Answers an approval or a question, once.",
            ApprovalAnswer::FIELDS,
            api::answer_approval,
        )
        .example(APPROVAL_EXAMPLE)
        .returns(APPROVAL_ANSWER),
        Route::read("models", MODELS, "The models that app-server knows.", api::models)
            .asks(Asks::AppServer)
            .returns(MODELS_ANSWER),
        Route::read(
            "events",
            event_stream_path,
            "The events: a page of them, or all as they come by WebSocket or SSE.",
            api::read_events,
        )
        .query(EVENTS_QUERY)
        .success(&[101, 200])
        .streams()
        .example("limit=5")
        .returns(EVENTS_ANSWER),
        Route::read("openapi", "/openapi.json", "This table as OpenAPI 3.1.", api::openapi)
            .on(Surface::None)
            .bare("application/json"),
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
