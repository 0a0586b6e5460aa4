//! Every route of codexd, on one screen.

use common::codexd_api::{
    EVENTS_QUERY, SESSION, SESSIONS, SESSIONS_QUERY, STATUS, SessionCreate, TURN, TurnCreate,
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
        write(
            (
                "turn.create",
                TURN,
                "Starts a turn; with Accept: text/event-stream its events follow to its end.",
            ),
            TurnCreate::FIELDS,
            api::start_turn,
        ),
        Route {
            query: EVENTS_QUERY,
            ..read("events", event_stream_path, "The events, as WebSocket or SSE.", api::read_events)
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
