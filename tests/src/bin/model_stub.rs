//! `model-stub`: the stand-in model as a program. It answers like a model that knows one sentence, or as the
//! directives in the user's text say; see the `script` module of this package.
//!
//! `model-stub [--port N] [--log FILE] [--home DIR] [--until-stdin-eof]` prints `listening http://127.0.0.1:PORT/v1`, and
//! no more. `--home` makes that folder a `CODEX_HOME` with which the CLI asks this model and nothing else.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use e2e::codex::{Codex, write_home};
use e2e::model::Model;

const USAGE: &str = "usage: model-stub [--port N] [--log FILE] [--home DIR] [--until-stdin-eof]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            let _ = writeln!(io::stderr(), "model-stub: {why}");
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<(), (u8, String)> {
    let usage = |why: &str| (2, format!("{why}; {USAGE}"));
    let (mut port, mut log, mut home, mut until_eof) = (0, None, None, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| usage(&format!("{arg} needs a value")));
        match arg.as_str() {
            "--port" => port = value()?.parse().map_err(|_| usage("--port needs a number up to 65535"))?,
            "--log" => {
                let file = value()?;
                let opened = OpenOptions::new().create(true).append(true).open(&file);
                log = Some(opened.map_err(|error| (1, format!("cannot write {file}: {error}")))?);
            }
            "--home" => home = Some(value()?),
            "--until-stdin-eof" => until_eof = true,
            "-h" | "--help" => {
                writeln!(io::stdout(), "{USAGE}\n\nPlays the model: prints where it listens, and with --home makes that folder a CODEX_HOME that asks it.").map_err(|error| (1, error.to_string()))?;
                return Ok(());
            }
            other => return Err(usage(&format!("unknown argument {other}"))),
        }
    }
    let model =
        Model::start(port, log).map_err(|error| (1, format!("cannot listen on port {port}: {error}")))?;
    if let Some(home) = home {
        // As for the newest: an older one does not mind, as long as it is not told to be strict.
        write_home(Path::new(&home), &Codex::Fake, &model.base_url(), 0);
    }
    writeln!(io::stdout(), "listening {}", model.base_url()).map_err(|error| (1, error.to_string()))?;
    if until_eof {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        return Ok(());
    }
    loop {
        std::thread::park();
    }
}
