//! The documents for people say what is so: their commands run, their lists are whole, their figures hold.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use common::error::CODES;
use e2e::bench::report::Report;
use e2e::codex::Codex;
use e2e::ports::free_port;
use e2e::process::{Launch, binary, released};
use e2e::temp::TempDir;

/// The longest that the commands of one document may take; the real CLI and a package made of a dev build are in it.
const RUN_WITHIN: Duration = Duration::from_secs(120);
/// Before a shell block that is not run, and the reason.
const NOT_RUN: &str = "<!-- not run: ";
/// Before one that does not end, and a text that it prints when it is ready; the blocks after it run beside it.
const RUNS_ON: &str = "<!-- runs on, and says: ";
/// Before one that wants what runs on to be stopped.
const STOPPED: &str = "<!-- when all of that is stopped -->";
/// Its commands come from the tables of routes, and `describe` runs each.
const GENERATED: &str = "docs/api.md";

/// A fenced block of a document.
#[derive(Debug, PartialEq)]
struct Block {
    line: usize,
    language: String,
    /// The comment on the line before it, or nothing.
    comment: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let (mut inside, mut before) = (false, "");
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), inside) {
            (Some(language), false) => {
                let comment = if before.starts_with("<!--") { before } else { "" };
                let (language, comment) = (language.to_owned(), comment.to_owned());
                found.push(Block { line: number + 1, language, comment, text: String::new() });
                inside = true;
            }
            (Some(_), true) => inside = false,
            (None, true) => {
                let block = found.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, false) => {}
        }
        before = line;
    }
    assert!(!inside, "a block without an end");
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// README.md and the pages of docs/.
fn documents() -> Vec<String> {
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = pages.map(|name| format!("docs/{}", name.to_str().unwrap())).collect();
    names.retain(|name| name.ends_with(".md") && name != GENERATED);
    names.push("README.md".to_owned());
    names
}

/// The shell blocks of a document that are run; panics at one that is not and does not say why.
fn shell_blocks(name: &str) -> Vec<Block> {
    let mut found = blocks(&read(name));
    for Block { line, language, comment, .. } in &found {
        let other =
            ["bash", "shell", "console", "zsh", "sh "].iter().any(|other| language.starts_with(other));
        assert!(!other, "{name}:{line}: a shell block is ```sh, so that it is run");
        let known = [NOT_RUN, RUNS_ON, STOPPED].iter().any(|known| comment.starts_with(known));
        assert!(comment.is_empty() || known || language != "sh", "{name}:{line}: what is {comment}?");
    }
    found.retain(|block| block.language == "sh" && !block.comment.starts_with(NOT_RUN));
    found
}

/// A folder that looks like a checkout after a release build, and a home, for the commands of one document.
struct Bench {
    dir: TempDir,
    ports: [(&'static str, u16); 3],
}

impl Bench {
    fn new() -> Bench {
        let dir = TempDir::new();
        let checkout = dir.folder("checkout");
        for entry in fs::read_dir(root()).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.file_name();
            if !["target", "run", ".git"].iter().any(|own| name == *own) {
                symlink(entry.path(), checkout.join(name)).unwrap();
            }
        }
        dir.folder("checkout/target");
        symlink(Bench::programs(), checkout.join("target/release")).unwrap();
        dir.folder("home");
        // Whoever asks in vain is wrong, and nobody waits for ever.
        fs::write(dir.folder("curl").join(".curlrc"), "fail-with-body\nsilent\nshow-error\nmax-time = 60\n")
            .unwrap();
        let (program, _) = Codex::both().pop().unwrap().command(); // the real one where there is one
        let shim = dir.folder("bin").join("codex");
        fs::write(&shim, format!("#!/bin/sh\nexec '{}' \"$@\"\n", program.display())).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        let ports = [(); 3].map(|()| free_port());
        Bench { dir, ports: [(":4317", ports[0]), (":4318", ports[1]), (":4319", ports[2])] }
    }

    /// Where the programs are: a fresh release build if there is one.
    fn programs() -> PathBuf {
        let names = ["codexd", "conductor", "status-api", "model-stub", "fake-app-server"];
        let fresh = names.map(released).into_iter().collect::<Option<Vec<_>>>();
        fresh.map_or_else(|| binary("codexd"), |paths| paths[0].clone()).parent().unwrap().to_owned()
    }

    fn launch(&self, script: &Path) -> Launch {
        let path = |name: &str| self.dir.path().join(name);
        let home = PathBuf::from(env::var_os("HOME").unwrap());
        let tools = |name: &str, folder: &str| env::var_os(name).unwrap_or_else(|| home.join(folder).into());
        let search = format!("{}:{}", path("bin").display(), env::var("PATH").unwrap());
        let launch = Launch {
            program: "sh".into(),
            args: vec![script.into()],
            env: Vec::new(),
            dir: self.dir.path().to_owned(),
        };
        let cache = env::var_os("BAA_CACHE_DIR").unwrap_or_else(|| root().join(".cache").into());
        let [conductor, status_api, codexd] = self.ports.map(|(_, port)| port.to_string());
        launch
            .env("RUSTUP_HOME", tools("RUSTUP_HOME", ".rustup"))
            .env("CARGO_HOME", tools("CARGO_HOME", ".cargo"))
            .env("HOME", path("home"))
            .env("PATH", search)
            .env("CURL_HOME", path("curl"))
            .env("no_proxy", "127.0.0.1")
            .env("SOURCE_DATE_EPOCH", "0")
            .env("BAA_CACHE_DIR", cache)
            .env("BAA_BIN_DIR", Bench::programs())
            .env("BAA_QUICKSTART_CONDUCTOR_PORT", conductor)
            .env("BAA_QUICKSTART_STATUS_API_PORT", status_api)
            .env("BAA_QUICKSTART_CODEXD_PORT", codexd)
    }
}

/// The blocks as one script, as somebody would paste them one after the other; what runs on has a terminal of its own.
fn script(name: &str, blocks: &[Block], ports: &[(&str, u16)]) -> String {
    let mut script = r#"set -eu
running=
ready() { # ready LOG TEXT: of what was started last
	for _ in $(seq 600); do
		! grep -q -F -e "$2" "$1" || return 0
		kill -0 "$!" 2>/dev/null || break
		sleep 0.1
	done
	cat "$1"
	echo "it does not say: $2"
	exit 1
}
stop() {
	kill $running
	for one in $running; do wait "$one" || :; done
	running=
}
cd checkout
"#
    .to_owned();
    for Block { line, comment, text, .. } in blocks {
        let mut text = text.clone();
        for (usual, port) in ports {
            text = text.replace(usual, &format!(":{port}"));
        }
        let _ = writeln!(script, "echo '== {name}:{line}'");
        match comment.strip_prefix(RUNS_ON).and_then(|rest| rest.strip_suffix(" -->")) {
            Some(says) => {
                let log = format!("\"$HOME\"/../{line}.log");
                // Its last line is the program, which is to have the number that is stopped.
                let (before, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
                let _ = writeln!(
                    script,
                    "(\n{before}\nexec env {last}\n) >{log} 2>&1 &\nrunning=\"$! $running\""
                );
                let _ = writeln!(script, "ready {log} '{says}'");
            }
            None if comment == STOPPED => drop(writeln!(script, "stop\n{text}")),
            None => script.push_str(&text),
        }
    }
    script
}

fn run(name: &str) {
    let mut blocks = shell_blocks(name);
    // A page that starts no node of its own speaks of the one of the README.
    let runs_on = |block: &Block| block.comment.starts_with(RUNS_ON);
    if !blocks.iter().any(runs_on) {
        blocks.insert(0, shell_blocks("README.md").into_iter().find(runs_on).unwrap());
    }
    let bench = Bench::new();
    let path = bench.dir.path().join("script");
    fs::write(&path, script(name, &blocks, &bench.ports)).unwrap();
    let (status, stdout, stderr) = bench.launch(&path).run(RUN_WITHIN);
    assert!(status.success(), "{name}\n{stdout}\n{stderr}");
    let run = stdout.lines().filter(|line| line.starts_with("== ") && line.contains(".md:")).count();
    assert_eq!(run, blocks.len(), "{name}: all of them\n{stdout}");
    for (usual, port) in bench.ports {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{name}: what listens at {usual} lives on");
    }
}

#[test]
fn every_command_of_the_readme_runs() {
    run("README.md");
}

#[test]
fn every_command_of_the_pages_runs() {
    let pages = documents().into_iter().filter(|name| name != "README.md");
    let with_commands: Vec<_> = pages.filter(|name| !shell_blocks(name).is_empty()).collect();
    assert!(with_commands.len() >= 2, "{with_commands:?}");
    std::thread::scope(|scope| {
        for name in &with_commands {
            scope.spawn(|| run(name));
        }
    });
}

#[test]
fn both_languages_have_the_same_headings_and_commands() {
    let [english, chinese] = ["README.md", "README.zh-CN.md"].map(read);
    let levels = |text: &str| -> Vec<usize> {
        let mut inside = false;
        let lines = text.lines().filter(|line| {
            inside ^= line.starts_with("```");
            !inside && line.starts_with('#')
        });
        lines.map(|line| line.chars().take_while(|letter| *letter == '#').count()).collect()
    };
    assert_eq!(levels(&english), levels(&chinese));
    let commands = |text: &str| -> Vec<_> {
        let shown = blocks(text).into_iter().filter(|block| !block.language.is_empty());
        shown.map(|block| (block.language, block.text)).collect()
    };
    assert_eq!(commands(&english), commands(&chinese));
}

/// The codes in the first cells of the rows below a heading, up to the next heading.
fn listed(page: &str, heading: &str) -> BTreeSet<String> {
    let (_, below) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = below.split("\n#").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(code, _)| code.to_owned()).collect()
}

#[test]
fn every_error_code_is_explained() {
    let page = read("docs/operations.md");
    let mut codes: BTreeSet<String> = CODES.iter().map(|code| code.name.to_string()).collect();
    // The one that is no row of the table: its status is that of whoever answered.
    assert!(read("conductor/src/upstream.rs").contains("\"codexd_proxy_error\""));
    codes.insert("codexd_proxy_error".to_owned());
    assert_eq!(listed(&page, "## Error codes"), codes);

    let sources = fs::read_dir(root().join("conductor/src/host")).unwrap().map(|entry| entry.unwrap().path());
    let sources = sources.filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    let text: String = sources.map(|path| fs::read_to_string(path).unwrap()).collect();
    let is_code = |word: &&str| {
        word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c == '8')
    };
    let words = text.split('"').filter(is_code).filter(|word| !word.starts_with("BAA_"));
    let codes: BTreeSet<String> = words.map(str::to_owned).collect();
    assert_eq!(listed(&page, "### Codes of host operations"), codes);
}

#[test]
fn every_exit_code_is_explained() {
    let listed = listed(&read("docs/operations.md"), "## Exit codes");
    let codes = common::config::EXIT_CODES.map(|(code, _)| code.to_string());
    assert_eq!(listed, BTreeSet::from(codes));
}

#[test]
fn links_lead_somewhere() {
    let others = ["README.zh-CN.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "DEPENDENCIES.md"];
    for name in documents().into_iter().chain(others.map(str::to_owned)) {
        let (text, folder) = (read(&name), root().join(&name));
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { folder.clone() } else { folder.with_file_name(path) };
            assert!(path.exists(), "{name} leads to {target}");
            let anchors = || {
                let text = fs::read_to_string(&path).unwrap();
                text.lines().filter(|line| line.starts_with('#')).map(anchor_of).collect::<Vec<_>>()
            };
            assert!(anchor.is_empty() || anchors().iter().any(|is| is == anchor), "{name} leads to {target}");
        }
    }
}

/// The name that GitHub gives a heading.
fn anchor_of(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_page_of_figures_tells_what_was_measured() {
    let report: Report = serde_json::from_str(&read("docs/performance.json")).unwrap();
    let page = read("docs/performance.md");
    let tables = page
        .split_once("<!-- figures -->\n")
        .and_then(|(_, rest)| rest.split_once("<!-- end of figures -->"));
    assert_eq!(
        tables.map(|(tables, _)| tables.trim()),
        Some(report.table().trim()),
        "`scripts/bench.sh --docs` writes it"
    );
}

#[test]
fn the_readme_tells_no_tales() {
    let readme = read("README.md");
    let rows = read("DEPENDENCIES.md").lines().filter(|line| line.starts_with("| `")).count();
    assert!(readme.contains(&format!("{rows} crates")), "it is {rows} crates");
    for name in ["codexd", "conductor", "status-api"] {
        let Some(path) = released(name) else { continue };
        let bytes = fs::metadata(path).unwrap().len();
        assert!(bytes < 4_000_000, "{name} is said to be below 4 MB, and has {bytes} bytes");
    }
    let version =
        read("Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = ").map(str::to_owned));
    assert!(readme.contains(&format!("Rust {}", version.unwrap().trim_matches('"'))), "the oldest Rust");
}
