//! Every route of codexd, on one screen.

use common::codexd_api::{
    APPROVAL, APPROVALS, ApprovalAnswer, CLOSE, EVENTS_QUERY, INTERRUPT, MODELS, SESSION, SESSIONS,
    SESSIONS_QUERY, STATUS, SessionCreate, TRANSCRIPT, TRANSCRIPT_QUERY, TURN, TURN_QUERY, TURN_READ,
    TurnCreate,
};
use common::http::{Access, Kind, Method, Route, Surface};
use common::wire::Field;

use crate::api::{self, App};

/// The table. The event stream's path is configurable, so it is made once at start, and lives as long as the process.
pub fn table(event_stream_path: &str) -> &'static [Route<App>] {
    let event_stream_path: &'static str = String::leak(event_stream_path.to_owned());
    let rows = vec![
        probe("probe.healthz", "/healthz", "Says `ok` while the process serves.", api::healthz),
        probe("probe.readyz", "/readyz", "Says `ready` while app-server takes work.", api::readyz),
        read("status", STATUS, "The daemon, its child, the newest sessions and recent events.", api::status),
        Route {
            query: SESSIONS_QUERY,
            ..read("sessions.list", SESSIONS, "The sessions in order of creation.", api::list_sessions)
        },
        read("sessions.read", SESSION, "A session and its recent events.", api::read_session),
        write(
            ("sessions.create", SESSIONS, "Creates a session, or resumes a thread as one."),
            SessionCreate::FIELDS,
            api::create_session,
        ),
        Route {
            query: TURN_QUERY,
            ..write(
                (
                    "turn.create",
                    TURN,
                    "Starts a turn; with Accept: text/event-stream its events follow to its end.",
                ),
                TurnCreate::FIELDS,
                api::start_turn,
            )
        },
        Route {
            query: TURN_QUERY,
            ..read("turns.read", TURN_READ, "One turn: status, text, usage, error.", api::read_turn)
        },
        write(
            ("sessions.interrupt", INTERRUPT, "Ends the turn that runs, as soon as the child can hear it."),
            &[],
            api::interrupt,
        ),
        write(("sessions.close", CLOSE, "Ends a session and its turn; it stays readable."), &[], api::close),
        Route {
            query: TRANSCRIPT_QUERY,
            ..read(
                "sessions.transcript",
                TRANSCRIPT,
                "The turns of a session in order, as a person reads them back.",
                api::read_transcript,
            )
        },
        read("approvals.list", APPROVALS, "What the agent waits for.", api::list_approvals),
        write(
            ("approvals.answer", APPROVAL, "Answers an approval or a question, once."),
            ApprovalAnswer::FIELDS,
            api::answer_approval,
        ),
        read("models", MODELS, "The models that app-server knows.", api::models),
        Route {
            query: EVENTS_QUERY,
            ..read(
                "events",
                event_stream_path,
                "The events: a page of them, or all as they come by WebSocket or SSE.",
                api::read_events,
            )
        },
    ];
    Vec::leak(rows)
}

type Handler = common::http::Handler<App>;

fn probe(id: &'static str, path: &'static str, summary: &'static str, handler: Handler) -> Route<App> {
    Route { kind: Kind::Probe, surface: Surface::Diagnostics, ..read(id, path, summary, handler) }
}

fn read(id: &'static str, path: &'static str, summary: &'static str, handler: Handler) -> Route<App> {
    Route {
        id,
        method: Method::Get,
        path,
        kind: Kind::Read,
        surface: Surface::Business,
        access: Access::Open,
        describe: true,
        summary,
        query: &[],
        body: None,
        handler,
    }
}

fn write(
    (id, path, summary): (&'static str, &'static str, &'static str),
    body: &'static [Field],
    handler: Handler,
) -> Route<App> {
    Route { method: Method::Post, kind: Kind::Write, body: Some(body), ..read(id, path, summary, handler) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_has_no_faults() {
        assert_eq!(common::http::faults(super::table("/v1/codexd/events")), Vec::<String>::new());
    }
}
