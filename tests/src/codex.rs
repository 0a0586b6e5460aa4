//! The two kinds of `codex` that tests run: the fake, and the real CLI of the pinned version with a home of its own.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::process::binary;

/// The version that `scripts/install-codex.sh` installs.
pub const PINNED: &str = "0.169.0";

/// Which `codex` a scenario runs with.
#[derive(Clone, Debug, PartialEq)]
pub enum Codex {
    /// The fake of this package.
    Fake,
    /// The real CLI at this path.
    Real(PathBuf),
}

impl Codex {
    /// The fake, and the real one where it is installed.
    pub fn both() -> Vec<Codex> {
        [Some(Codex::Fake), real_codex().map(Codex::Real)].into_iter().flatten().collect()
    }

    /// The program and its arguments.
    #[track_caller]
    pub fn command(&self) -> (PathBuf, Vec<&'static str>) {
        match self {
            Codex::Fake => (binary("fake-app-server"), vec!["app-server"]),
            Codex::Real(path) => (path.clone(), vec!["app-server", "--strict-config"]),
        }
    }
}

/// The real CLI: `$BAA_TEST_CODEX`, else the installed pinned one. Where there is none, says so in one line, once;
/// with `CI=true` that is a panic.
pub fn real_codex() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let given = std::env::var_os("BAA_TEST_CODEX").map(PathBuf::from);
        let path = given.unwrap_or_else(|| {
            let cache = std::env::var_os("BAA_CACHE_DIR").map(PathBuf::from);
            let cache =
                cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".cache"));
            cache.join("codex").join(PINNED).join("node_modules/.bin/codex")
        });
        if path.exists() {
            return Some(path);
        }
        let why = format!("no Codex CLI at {} (scripts/install-codex.sh installs it)", path.display());
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        // Not through the test's captured output: it is to be seen.
        let _ = writeln!(io::stderr(), "skipped the tests with the real CLI: {why}");
        None
    });
    found.clone()
}

/// Makes a `CODEX_HOME` that asks the stand-in model at `base_url` and nothing else, with so many retries of a broken
/// stream, and the safe sandbox as default. Panics if it cannot be written.
#[track_caller]
pub fn write_home(home: &Path, base_url: &str, retries: u32) {
    // gpt-5.5 is known to the CLI and gets `apply_patch`; plugins would look up hosts outside; without the last
    // feature line a refused connection is retried for ever.
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
unbounded_connection_retries = false
[analytics]
enabled = false
"#
    );
    let written = fs::create_dir_all(home).and_then(|()| fs::write(home.join("config.toml"), config));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", home.display()));
}
