//! conductor: the node's front door; and what status-api shares with it.
//!
//! It keeps no session of its own: what concerns Codex goes to codexd over local HTTP, one request for one call.
//! In reading order: `cli`, `config`, `routes` (every route on one screen), `access`, `api`, `codex` and `describe` (what they do; `answers` tells it to documents), `upstream` (codexd, and how it fails).

mod access;
mod answers;
mod api;
mod cli;
mod codex;
mod config;
mod describe;
mod routes;
#[cfg(test)]
mod tests;
mod upstream;

pub use cli::main;
