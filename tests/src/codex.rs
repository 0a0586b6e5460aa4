//! The kinds of `codex` that tests run: the fake, and the real CLI in three versions, each with a home of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::process::binary;

/// The versions that the scenarios run against: the oldest that is supported, one of the time when codexd's callers were
/// written, and the newest. `scripts/ci.sh` installs all three.
pub const VERSIONS: [&str; 3] = ["0.107.0", "0.116.0", PINNED];
/// The version that `scripts/install-codex.sh` installs if it is told none, and that every other test runs.
pub const PINNED: &str = "0.169.0";

/// Which `codex` a scenario runs with.
#[derive(Clone, Debug, PartialEq)]
pub enum Codex {
    /// The fake of this package.
    Fake,
    /// The real CLI.
    Real(Installed),
}

/// A real CLI that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Installed {
    /// One of [`VERSIONS`].
    pub version: &'static str,
    /// Its `codex`.
    pub path: PathBuf,
}

impl Codex {
    /// The fake, and the newest real one where it is installed.
    pub fn both() -> Vec<Codex> {
        [Some(Codex::Fake), Codex::of_version(PINNED)].into_iter().flatten().collect()
    }

    /// The real CLI of one of [`VERSIONS`], where it is installed; `$BAA_TEST_CODEX` takes the newest one's place. Where
    /// there is none, says so in one line, once; with `CI=true` that is a panic.
    pub fn of_version(version: &'static str) -> Option<Codex> {
        static TOLD: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
        let given = std::env::var_os("BAA_TEST_CODEX").map(PathBuf::from).filter(|_| version == PINNED);
        let path = given.unwrap_or_else(|| {
            let cache = std::env::var_os("BAA_CACHE_DIR").map(PathBuf::from);
            let cache =
                cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".cache"));
            cache.join("codex").join(version).join("node_modules/.bin/codex")
        });
        if path.exists() {
            return Some(Codex::Real(Installed { version, path }));
        }
        let why =
            format!("no Codex CLI at {} (scripts/install-codex.sh {version} installs it)", path.display());
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(version) {
            // Not through the test's captured output: it is to be seen.
            let _ = writeln!(io::stderr(), "skipped the tests with the real CLI {version}: {why}");
        }
        None
    }

    /// The version that it is, or that the fake claims to be.
    pub fn version(&self) -> &'static str {
        match self {
            Codex::Fake => PINNED,
            Codex::Real(installed) => installed.version,
        }
    }

    /// Whether it is this version or a newer one.
    pub fn since(&self, minor: u32) -> bool {
        let mut parts = self.version().split('.').skip(1);
        parts.next().and_then(|part| part.parse().ok()).is_some_and(|own: u32| own >= minor)
    }

    /// The program and its arguments.
    #[track_caller]
    pub fn command(&self) -> (PathBuf, Vec<&'static str>) {
        let mut args = vec!["app-server"];
        if self.since(STRICT_CONFIG) {
            args.push("--strict-config");
        }
        match self {
            Codex::Fake => (binary("fake-app-server"), args),
            Codex::Real(installed) => (installed.path.clone(), args),
        }
    }
}

/// The 0.x from which on `--strict-config` is known; before, it is refused like any unknown flag.
const STRICT_CONFIG: u32 = 135;
/// The 0.x from which on a refused connection is tried again for ever, if it is not told otherwise; the word for it is
/// an error to the versions before that know `--strict-config`.
const ENDLESS_RETRIES: u32 = 155;

/// Makes a `CODEX_HOME` for that `codex` that asks the stand-in model at `base_url` and nothing else, with so many retries
/// of a broken stream, and the safe sandbox as default. Panics if it cannot be written.
#[track_caller]
pub fn write_home(home: &Path, codex: &Codex, base_url: &str, retries: u32) {
    let endless = if codex.since(ENDLESS_RETRIES) { "unbounded_connection_retries = false\n" } else { "" };
    // gpt-5.5 gets `apply_patch` where the CLI knows it; plugins would look up hosts outside.
    let config = format!(
        r#"model = "gpt-5.5"
model_provider = "mock"
approval_policy = "never"
sandbox_mode = "read-only"
check_for_update_on_startup = false
[model_providers.mock]
name = "mock"
base_url = "{base_url}"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = {retries}
stream_idle_timeout_ms = 60000
supports_websockets = false
[features]
plugins = false
{endless}[analytics]
enabled = false
"#
    );
    let written = fs::create_dir_all(home).and_then(|()| fs::write(home.join("config.toml"), config));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", home.display()));
}
