//! End-to-end tests: real processes, real sockets.

#![allow(clippy::unwrap_used)] // all of it is a test, helpers too

mod alone;
mod bridge;
mod browser;
mod codexd;
mod command_line;
mod connections;
mod dependencies;
mod describe;
mod descriptors;
mod disk;
mod doctor;
mod documents;
mod driver;
mod event_stream;
mod exec_keys;
mod external;
mod fake;
mod harness;
mod host;
mod hostile;
mod idle;
mod launchd;
mod lease;
mod metrics;
mod model;
mod odd_child;
mod pages;
mod peers;
mod read_back;
mod restart;
mod safety;
mod scale;
mod scenarios;
mod status;
mod streams;
mod task_commands;
mod tasks;
mod through_codexd;
mod through_conductor;
mod torture;
mod trace;
mod transcripts;
mod versions;
