//! status-api: how the node is, as JSON and as one page.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
