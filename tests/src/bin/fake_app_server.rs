//! `fake-app-server`: stands in for `codex` in tests; see the `fake` module of this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::fake::main(&std::env::args().skip(1).collect::<Vec<_>>())
}
