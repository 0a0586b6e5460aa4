//! What `GET /metrics` shows of conductor. Nothing is asked of codexd for it, which has a page of its own.

use std::time::Instant;

use common::Error;
use common::error::{CODEXD_INVALID_RESPONSE, CODEXD_NOT_CONFIGURED, CODEXD_UNAVAILABLE};
use common::http::{Answer, Request};
use common::metrics::{Page, Timing};
use serde_json::Value;

use crate::api::Node;
use crate::lease::LeaseState;
use crate::state::Totals;

/// Calls of codexd by what came of them, and how long that took; a stream counts to its beginning.
#[derive(Default)]
pub(crate) struct Calls {
    /// 2xx.
    ok: Timing,
    /// codexd said no.
    refused: Timing,
    /// What it said is no answer.
    invalid: Timing,
    /// It did not answer.
    unavailable: Timing,
}

impl Calls {
    /// Makes a call and counts it.
    pub(crate) fn count<T>(&self, call: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let begun = Instant::now();
        let outcome = call();
        let timing = match &outcome {
            Ok(_) => &self.ok,
            Err(error) if error.code == CODEXD_NOT_CONFIGURED => return outcome, // none was made
            Err(error) if error.code == CODEXD_UNAVAILABLE => &self.unavailable,
            Err(error) if error.code == CODEXD_INVALID_RESPONSE => &self.invalid,
            Err(_) => &self.refused,
        };
        timing.add(begun.elapsed());
        outcome
    }

    fn show(&self, page: &mut Page) {
        page.summary(
            "baa_conductor_upstream_request_duration_seconds",
            "Calls of codexd by what came of them, and the time to its answer or to the begin of its stream.",
        )
        .timing(&[("outcome", "ok")], &self.ok)
        .timing(&[("outcome", "refused")], &self.refused)
        .timing(&[("outcome", "invalid")], &self.invalid)
        .timing(&[("outcome", "unavailable")], &self.unavailable);
    }
}

/// `GET /metrics`
pub(crate) fn metrics(node: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(node.stats.answer("conductor", env!("CARGO_PKG_VERSION"), |page| {
        system(page, &node.system(), node.lease_state());
        work(page, node.board.shown().totals);
        if let Some(feed) = node.feed.get() {
            feed.metrics(page, node.config.log);
        }
        node.codexd.calls().show(page);
        page.gauge(
            "baa_conductor_upstream_streams_open",
            "Streams and WebSockets of codexd that pass through.",
        )
        .is(node.codexd.streams());
        page.gauge("baa_conductor_bridge_clients", "Clients of the browser bridge.")
            .is(node.bridge.clients() as u64);
        page.gauge("baa_conductor_execs_active", "Commands of host operations that run.")
            .is(node.host.execs() as u64);
    }))
}

/// What became of tasks, and how much was done for them.
fn work(page: &mut Page, totals: Totals) {
    let Totals { completed, failed, canceled, runs, steps } = totals;
    page.counter(
        "baa_conductor_tasks_finished_total",
        "Tasks that are over, by how they ended, in the life of the state directory.",
    )
    .with(&[("status", "completed")], completed)
    .with(&[("status", "failed")], failed)
    .with(&[("status", "canceled")], canceled);
    page.counter("baa_conductor_runs_started_total", "Runs that began, in the life of the state directory.")
        .is(runs);
    page.counter(
        "baa_conductor_steps_finished_total",
        "Steps that are done, in the life of the state directory.",
    )
    .is(steps);
}

/// The lease, the mode and what waits or runs, of the system state.
fn system(page: &mut Page, system: &Value, lease: LeaseState) {
    let number = |key: &str| system[key].as_u64().unwrap_or(0);
    let states = [LeaseState::Leader, LeaseState::Standby, LeaseState::Degraded].map(LeaseState::name);
    page.gauge("baa_conductor_lease_state", "1 for the state that the lease is in.").state(
        "state",
        &states,
        lease.name(),
    );
    page.gauge("baa_conductor_lease_term", "The term of the lease; it rises with each new holder.")
        .is(number("term"));
    page.gauge("baa_conductor_mode", "1 for the mode that the system is in.").state(
        "mode",
        &["running", "paused", "draining"],
        system["mode"].as_str().unwrap_or_default(),
    );
    page.gauge("baa_conductor_tasks_queued", "Tasks that wait for a run.").is(number("queued_tasks"));
    page.gauge("baa_conductor_runs_active", "Runs that are under way.").is(number("active_runs"));
}
