//! The child: a `codex app-server` that speaks JSON-RPC in lines over stdio. Only this folder knows that.

pub mod process;
pub mod protocol;
