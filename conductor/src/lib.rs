//! conductor: the node's front door; and what status-api shares with it.
//!
//! It keeps no session of its own: what concerns Codex goes to codexd over local HTTP, one request for one call.
//! In reading order: `cli`, `config`, `routes` (every route on one screen), `access`, `api` and `codex` (what they do), `upstream` (codexd, and how it fails).

mod access;
mod api;
mod cli;
mod codex;
mod command;
mod config;
mod routes;
#[cfg(test)]
mod tests;
mod upstream;

pub use cli::main;

/// What status-api does as conductor does it.
pub mod shared {
    pub use crate::codex::follow;
    pub use crate::command::{Failure, end, say};
    pub use crate::config::{Token, host, text, token, upstream};
    pub use crate::upstream::{Codexd, Deadlines, agent};
}
