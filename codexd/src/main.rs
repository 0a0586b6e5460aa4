//! codexd: the only place where Codex runs.
//!
//! It owns a `codex app-server` child, its sessions and turns, their durable event log and their recovery, and serves
//! them on loopback. In reading order: `event` and `state` are what happened and what it adds up to, `core` is the one
//! step, with its parts in `sessions`, `turns`, `interrupts`, `approvals`, `history`, `requests`, `supervise` and `deltas`;
//! `shell` performs it; `app_server` speaks with the child; `routes`, `api`, `events` and `views` speak with callers;
//! `transcript` keeps what
//! the log forgets; `disk` measures, `metrics` counts; `daemon` puts it all together; `cli`, `commands`, `smoke` and
//! `doctor` are the command line.

mod api;
mod app_server;
mod approvals;
mod ceilings;
mod cli;
mod commands;
mod config;
mod core;
mod cut;
mod daemon;
mod deltas;
mod disk;
mod doctor;
mod documents;
mod event;
mod events;
mod history;
mod interrupts;
mod metrics;
mod requests;
mod routes;
mod sessions;
mod shell;
mod smoke;
mod state;
mod supervise;
mod transcript;
mod turns;
mod views;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::PROGRAM.main()
}
