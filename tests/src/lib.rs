//! What the end-to-end tests stand on: stand-ins for the two peers that codexd has (the model behind the CLI, and the
//! CLI itself), and a harness that starts real processes and talks to them over real sockets. In reading order.

pub mod script;

pub mod model;

pub mod fake;

pub mod random;

pub mod wait;

pub mod figures;

pub mod temp;

pub mod process;

pub mod ports;

pub mod tmpfs;

pub mod codex;

pub mod lines;

pub mod http;

pub mod websocket;

pub mod node;

pub mod reader;

pub mod browser;

pub mod stub;

pub mod golden;

pub mod api_page;

pub mod bench;
