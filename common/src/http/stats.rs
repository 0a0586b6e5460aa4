//! What a server counts of itself, for `GET /metrics`.
//!
//! Counting is a few atomics: no lock, no allocation. What is counted by is bounded: the rows of the table and the
//! statuses that the contract knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Answer, Route};
use crate::metrics::{self, CONTENT_TYPE, Page, Timing};
use crate::time::Timestamp;

/// The statuses that are told apart; all others are `other`.
const STATUSES: [u16; 22] = [
    101, 200, 201, 202, 400, 401, 403, 404, 405, 408, 409, 413, 415, 426, 429, 431, 500, 502, 503, 504, 505,
    507,
];
/// The name for what found no row, or was refused before one was looked for.
const NO_ROUTE: &str = "none";

/// The numbers of one server.
pub struct Stats {
    started: Timestamp,
    rows: Vec<Row>,
    /// Connections that are open now, and how many there may be.
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) most_connections: AtomicUsize,
    /// Connections that were turned away since the last place was taken.
    pub(super) refused: AtomicU64,
    /// Bytes of request bodies in memory.
    pub(super) bodies: Arc<AtomicUsize>,
    /// Bytes of large answers in memory.
    pub(super) answers: Arc<AtomicUsize>,
    /// Answers that are being written as they come.
    pub(super) streams: AtomicUsize,
    /// Connections that have left HTTP.
    pub(super) upgraded: AtomicUsize,
}

struct Row {
    id: &'static str,
    by_status: [Timing; STATUSES.len() + 1],
}

impl Stats {
    /// The numbers of a server with this table; made when the process begins, since they tell when that was.
    pub fn of<S>(routes: &[Route<S>]) -> Arc<Stats> {
        let ids = routes.iter().map(|route| route.id).chain([NO_ROUTE]);
        Arc::new(Stats {
            started: Timestamp::now(),
            rows: ids.map(|id| Row { id, by_status: Default::default() }).collect(),
            connections: Arc::default(),
            most_connections: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            bodies: Arc::default(),
            answers: Arc::default(),
            streams: AtomicUsize::new(0),
            upgraded: AtomicUsize::new(0),
        })
    }

    /// An answer with this status begins, so long after its request was known. A `row` that the table has not is `none`.
    pub(super) fn answered(&self, row: usize, status: u16, took: Duration) {
        let column = STATUSES.iter().position(|&known| known == status).unwrap_or(STATUSES.len());
        if let Some(row) = self.rows.get(row).or(self.rows.last()) {
            row.by_status[column].add(took);
        }
    }

    /// The page of a daemon: what it is, what its server and its process cost, and what `own` adds.
    pub fn answer(&self, daemon: &str, version: &str, own: impl FnOnce(&mut Page)) -> Answer {
        let mut page = Page::default();
        page.gauge(&format!("baa_{daemon}_build_info"), "1; the label says which version runs.")
            .with(&[("version", version)], 1);
        own(&mut page);
        self.show(&mut page);
        metrics::process(&mut page, self.started);
        Answer::Text { status: 200, content_type: CONTENT_TYPE, body: page.into_text() }
    }

    fn show(&self, page: &mut Page) {
        let mut family = page.summary(
            "baa_http_request_duration_seconds",
            "Requests by row of the table and status, and the time from the end of their head to the begin of their answer.",
        );
        for row in &self.rows {
            for (column, timing) in row.by_status.iter().enumerate() {
                if timing.happened() {
                    let code = STATUSES.get(column).map_or("other".to_owned(), u16::to_string);
                    family = family.timing(&[("route", row.id), ("code", &code)], timing);
                }
            }
        }
        let number = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        page.gauge("baa_http_connections_open", "Connections that are open.").is(number(&self.connections));
        page.gauge(
            "baa_http_connections_limit",
            "Connections that may be open, the last of them for probes alone.",
        )
        .is(number(&self.most_connections));
        page.counter("baa_http_connections_refused_total", "Connections that found no place.")
            .is(self.refused.load(Ordering::Relaxed));
        page.gauge("baa_http_streams_open", "Answers that are written as they come: server-sent events.")
            .is(number(&self.streams));
        page.gauge("baa_http_websockets_open", "Connections that have become WebSockets.")
            .is(number(&self.upgraded));
        page.gauge("baa_http_request_bodies_bytes", "Request bodies in memory.").is(number(&self.bodies));
        page.gauge("baa_http_large_answers_bytes", "Large answers in memory, on their way to clients.")
            .is(number(&self.answers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_row_and_status_within_bounds() {
        let route = Route::<()>::read("a", "/a", "Reads.", |_, _| unreachable!());
        let stats = Stats::of(&[route]);
        for (row, status) in [(0, 200), (0, 200), (0, 599), (1, 404), (7, 404)] {
            stats.answered(row, status, Duration::from_millis(250));
        }
        let mut page = Page::default();
        stats.show(&mut page);
        let text = page.into_text();
        let samples: Vec<_> = text.lines().filter(|line| line.contains('{')).collect();
        let name = "baa_http_request_duration_seconds";
        let expected = [
            format!("{name}_sum{{route=\"a\",code=\"200\"}} 0.5"),
            format!("{name}_count{{route=\"a\",code=\"200\"}} 2"),
            format!("{name}_sum{{route=\"a\",code=\"other\"}} 0.25"),
            format!("{name}_count{{route=\"a\",code=\"other\"}} 1"),
            format!("{name}_sum{{route=\"none\",code=\"404\"}} 0.5"),
            format!("{name}_count{{route=\"none\",code=\"404\"}} 2"),
        ];
        assert_eq!(samples, expected);
    }
}
