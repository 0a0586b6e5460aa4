//! conductor: the node's front door; and what status-api shares with it.
//!
//! It keeps no session of its own: what concerns Codex goes to codexd over local HTTP, one request for one call.
//! In reading order: `cli`, `commands` (those that ask a running one), `config`, `daemon` (from the listener to the last document); `routes` (every route on one
//! screen), `access`, `api`, `system`, `controllers`, `tasks`, `firefox`, `codex` and
//! `describe` (what they do; `answers` tells it to documents), `upstream` (codexd, and
//! how it fails); `event` and `state` (what happened, and what it adds up to), `core` (the one step), `shell` (performs it),
//! `lease` (who leads), `metrics`; `doctor` (what a node stands on); `host` (commands and files), `results` (what commands came to).

mod access;
mod answers;
mod api;
mod cli;
mod codex;
mod commands;
mod config;
mod controllers;
mod core;
mod daemon;
mod describe;
mod doctor;
mod event;
mod firefox;
mod host;
mod lease;
mod metrics;
mod results;
mod routes;
mod scheduler;
mod shell;
mod state;
mod system;
mod tasks;
#[cfg(test)]
mod tests;
mod upstream;
mod worker;

pub use cli::main;

/// What status-api does as conductor does it.
pub mod shared {
    pub use crate::codex::follow;
    pub use crate::config::{Token, host, text, token, upstream};
    pub use crate::upstream::{Codexd, Deadlines};
}
