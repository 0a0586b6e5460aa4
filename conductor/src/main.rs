//! The program `conductor`.

fn main() -> std::process::ExitCode {
    conductor::main()
}
