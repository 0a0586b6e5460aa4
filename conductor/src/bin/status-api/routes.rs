//! Every route on one screen, and what serves it: nothing here changes anything.

use std::io::Write;
use std::sync::Arc;

use common::codexd_api::{EVENTS_ANSWER, EVENTS_QUERY};
use common::error::INTERNAL_ERROR;
use common::http::{Answer, Gate, Limits, Request, Route, Server, Stats, Style, Surface, admit_all};
use common::{Error, fields, random_id};
use conductor::shared::{Codexd, Deadlines, follow};

use crate::config::Config;
use crate::sources::Sources;

/// The table.
pub(crate) static ROUTES: &[Route<Node>] = &[
    Route::probe("probe.healthz", "/healthz", "Whether the process serves: `ok`.", healthz),
    Route::read("status", "/v1/status", "How conductor, codexd and the queue are.", status).returns(fields![
        required "at": string, "When this was answered.";
        required "version": string, "Of status-api.";
        required "conductor": object, "ok, age_ms, error, base_url, and its runtime and system.";
        required "codexd": object, "ok, age_ms, error, base_url, and its child, sessions, events and approvals.";
        required "queue": object, "ok, age_ms, error, mode, queued_tasks, active_runs, drained, tasks and runs.";
    ]),
    Route::probe("probe.metrics", "/metrics", "Metrics in Prometheus' text format.", metrics),
    Route::read("events", "/v1/events", "codexd's events, as codexd gives them.", events)
        .query(EVENTS_QUERY)
        .success(&[200, 101])
        .streams()
        .returns(EVENTS_ANSWER),
    Route::read("page", "/", "The same for people, as a page.", page).on(Surface::None).bare("text/html"),
];

/// One page, whole: style and script are in it, and nothing is loaded from anywhere.
const PAGE: &str = include_str!("page.html");
/// Stands in the page where the word stands without which no style and no script counts.
const NONCE: &str = "{{nonce}}";

/// What every handler shares.
pub(crate) struct Node {
    pub(crate) sources: Sources,
    /// The same codexd, for those who follow its events.
    pub(crate) codexd: Codexd,
    stats: Arc<Stats>,
}

/// status-api with all it serves.
pub(crate) fn server(config: &Config) -> Server<Node> {
    let codexd = Codexd::new(config.codexd.clone(), Deadlines::default());
    let stats = Stats::of(ROUTES);
    Server {
        routes: ROUTES,
        gate: Gate { hosts: config.allowed_hosts.clone(), origins: Vec::new() },
        state: Arc::new(Node { sources: Sources::new(config), codexd, stats: stats.clone() }),
        style: Style::Snake,
        unknown_route: |method, path| format!("Unknown status-api route {method} {path}."),
        authorize: admit_all,
        limits: Limits::default(),
        stats,
    }
}

fn healthz(_: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(Answer::Text { status: 200, content_type: "text/plain; charset=utf-8", body: "ok\n".to_string() })
}

fn metrics(node: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(node.stats.answer("status_api", env!("CARGO_PKG_VERSION"), |_| ()))
}

fn status(node: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(Answer::Json { status: 200, data: node.sources.status() })
}

fn events(node: &Node, request: &Request) -> Result<Answer, Error> {
    follow(&node.codexd, request)
}

fn page(_: &Node, _: &Request) -> Result<Answer, Error> {
    let no_word = |error| Error::new(INTERNAL_ERROR, "The page cannot be made.").because(error);
    let nonce = random_id().map_err(no_word)?;
    // Sessions bring text of strangers: should any of it ever stand as markup, it loads and runs nothing.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    let headers = vec![
        ("Content-Type", "text/html; charset=utf-8".to_string()),
        ("Content-Security-Policy", policy),
        ("Cache-Control", "no-store".to_string()),
        ("X-Content-Type-Options", "nosniff".to_string()),
        ("Referrer-Policy", "no-referrer".to_string()),
    ];
    let run =
        Box::new(move |out: &mut common::http::Writer| out.write_all(PAGE.replace(NONCE, &nonce).as_bytes()));
    Ok(Answer::Stream { status: 200, headers, run })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_faults_and_writes_nothing() {
        assert_eq!(common::http::faults(ROUTES), Vec::<String>::new());
        assert!(ROUTES.iter().all(|route| route.body.is_none()));
    }

    #[test]
    fn the_page_has_all_in_it() {
        assert_eq!(PAGE.matches(NONCE).count(), 2, "its style and its script");
        for loaded in [
            " src=",
            "href=\"http",
            "@import",
            "url(",
            "innerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
        ] {
            assert!(!PAGE.contains(loaded), "{loaded}");
        }
    }
}
