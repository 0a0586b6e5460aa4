//! Where and of what a run was made: as much as one needs to read its figures.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::process::binary;

/// A machine, and what was built on it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The day, UTC.
    date: String,
    /// Processors that the run may use.
    cores: usize,
    cpu: String,
    /// The kernel and its architecture.
    os: String,
    rustc: String,
    codexd: String,
}

impl Machine {
    /// This one. What cannot be found out is empty.
    pub fn here() -> Machine {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let apple = || says("sysctl".as_ref(), &["-n", "machdep.cpu.brand_string"]);
        let release = says("uname".as_ref(), &["-r"]);
        let release = release.split('-').next().unwrap_or_default(); // without the name of whoever built it
        let [system, architecture] = ["-s", "-m"].map(|flag| says("uname".as_ref(), &[flag]));
        Machine {
            date: Timestamp::now().to_string().chars().take(10).collect(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: model.map_or_else(apple, |(_, name)| name.to_owned()),
            os: format!("{system} {release} {architecture}"),
            rustc: word(&says("rustc".as_ref(), &["--version"])),
            codexd: word(&says(&binary("codexd"), &["version"])),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { date, cores, cpu, os, rustc, codexd } = self;
        write!(
            f,
            "Measured on {date}: {cores} cores of {cpu}, {os}; codexd {codexd}, built by rustc {rustc}."
        )
    }
}

/// What a command prints, without its line's end; nothing if it does not run.
fn says(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

/// The version in `NAME VERSION …`.
fn word(line: &str) -> String {
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}
