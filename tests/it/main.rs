//! End-to-end tests: real processes, real sockets.

#![allow(clippy::unwrap_used)] // all of it is a test, helpers too

mod codexd;
mod connections;
mod dependencies;
mod descriptors;
mod driver;
mod event_stream;
mod fake;
mod harness;
mod hostile;
mod idle;
mod model;
mod odd_child;
mod peers;
mod restart;
mod scenarios;
mod streams;
mod through_codexd;
mod transcripts;
