//! The server over real sockets: what honest clients see, and what hostile ones do not achieve.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test's helpers are tests too

mod attacks;
mod harness;
mod http;
mod stats;
mod stop;
mod websocket;
