//! A place where a node can be installed, the shells that do it, and who stands in for launchd and systemd.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use e2e::figures;
use e2e::ports::free_port;
use e2e::process::{Daemon, Launch, binary};
use e2e::temp::TempDir;
use serde_json::Value;

pub(super) const SERVICES: [&str; 3] = ["codexd", "conductor", "status-api"];
/// Nothing of it may be taken for a part of a file, of a pattern, or of a command.
const ODD: &str = "a & <b> \"c\" 'd' 100%h $HOME |\u{e9} @REPO_DIR@";
pub(super) const TOKEN: &str = "s3cret & <token> \"quoted\" 100%h";
/// Longer than the scripts wait for anything that does not come.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers what is loaded, as launchd does.
const LAUNCHCTL: &str = r#"#!/bin/sh
here=${0%/*}
printf '%s\n' "$*" >>"$here/calls"
for label; do :; done
label=${label##*/} label=$here/loaded-${label%.plist}
case $1 in
print) [ -e "$label" ] && printf '\tstate = running\n\tpid = 7\n\tother = 1\n' || exit 113 ;;
bootout) [ -e "$label" ] && rm "$label" || exit 3 ;;
bootstrap) [ ! -e "$label" ] && : >"$label" || exit 5 ;;
kickstart) [ -e "$label" ] || exit 113 ;;
*) exit 64 ;;
esac
"#;

/// So does systemd, as far as it is asked.
const SYSTEMCTL: &str = r#"#!/bin/sh
printf '%s\n' "$*" >>"${0%/*}/calls"
case $2 in is-active) echo active ;; esac
"#;

/// Who runs the scripts, and what it finds on PATH besides `launchctl`.
pub(super) struct Shell {
    command: Vec<PathBuf>,
    pub(super) path: String,
}

/// dash with the system's tools, and busybox with nothing but its own and curl.
fn shells(dir: &TempDir) -> Vec<Shell> {
    let mut shells = Vec::new();
    if let Some(dash) = tool("dash") {
        shells.push(Shell { command: vec![dash], path: std::env::var("PATH").unwrap() });
    }
    if let (Some(busybox), Some(curl)) = (tool("busybox"), tool("curl")) {
        let applets = dir.folder("applets");
        let made = Command::new(&busybox).args(["--install", "-s"]).arg(&applets).status().unwrap();
        assert!(made.success());
        symlink(curl, applets.join("curl")).unwrap();
        shells
            .push(Shell { command: vec![busybox, "sh".into()], path: applets.to_str().unwrap().to_owned() });
    }
    shells
}

/// Where a tool is; only outside of CI may it be missing.
pub(super) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} is missing");
        figures::print(&format!("skipped the operator's scripts with {name}: it is not installed"));
    }
    found
}

/// A place where a node can be installed, and the shell that does it.
pub(super) struct Site {
    pub(super) shell: Shell,
    /// Of the three services.
    ports: BTreeMap<&'static str, u16>,
    pub(super) install: PathBuf,
    pub(super) repo: PathBuf,
    pub(super) home: PathBuf,
    launchctl: PathBuf,
    pub(super) dir: TempDir,
}

impl Site {
    /// One for each shell.
    pub(super) fn each() -> impl Iterator<Item = Site> {
        (0..2).filter_map(|which| {
            let dir = TempDir::new();
            let mut shells = shells(&dir);
            (which < shells.len()).then(|| Site::new(dir, shells.swap_remove(which)))
        })
    }

    fn new(dir: TempDir, shell: Shell) -> Site {
        let repo = dir.folder(ODD);
        let home = dir.folder(&format!("{ODD}/home"));
        fs::create_dir_all(home.join(".local/bin")).unwrap();
        symlink(binary("fake-app-server"), home.join(".local/bin/codex")).unwrap();
        let launchctl = dir.folder("launchd");
        executable(&launchctl.join("launchctl"), LAUNCHCTL);
        executable(&launchctl.join("systemctl"), SYSTEMCTL);
        fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        mode(&dir.path().join("token"), 0o600);
        let ports = SERVICES.map(|name| (name, free_port())).into();
        Site { shell, ports, install: dir.path().join("in stalled"), repo, home, launchctl, dir }
    }

    pub(super) fn base(&self, service: &str) -> String {
        format!("http://127.0.0.1:{}", self.ports[service])
    }

    pub(super) fn token(&self) -> String {
        self.dir.path().join("token").to_str().unwrap().to_owned()
    }

    /// The options that every script gets.
    pub(super) fn options(&self) -> Vec<String> {
        let bin = binary("codexd").parent().unwrap().to_owned();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let pairs = [
            ("--repo-dir", text(&self.repo)),
            ("--bin-dir", text(&bin)),
            ("--home-dir", text(&self.home)),
            ("--install-dir", text(&self.install)),
            ("--local-api-base", self.base("conductor")),
            ("--codexd-local-api-base", self.base("codexd")),
            ("--status-api-base", self.base("status-api")),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    pub(super) fn launch(&self, script: &str, args: &[String]) -> Launch {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let dir = self.dir.folder(&format!("run-{}", RUNS.fetch_add(1, Ordering::Relaxed)));
        let script = root().join("scripts/runtime").join(script);
        let program = self.shell.command[0].clone();
        let launch = Launch { program, args: Vec::new(), env: Vec::new(), dir };
        launch
            .args(&self.shell.command[1..])
            .args([script])
            .args(args)
            .env("PATH", format!("{}:{}", self.launchctl.display(), self.shell.path))
    }

    /// Runs a script with exactly these arguments: exit code, stdout, stderr.
    #[track_caller]
    pub(super) fn run(&self, script: &str, args: &[String]) -> (Option<i32>, String, String) {
        let (status, out, err) = self.launch(script, args).run(PATIENCE);
        (status.code(), out, err)
    }

    /// Runs a script with the site's options and more: exit code and stdout.
    #[track_caller]
    pub(super) fn with(&self, script: &str, more: &[&str]) -> (Option<i32>, String) {
        let mut args = self.options();
        args.extend(more.iter().map(|arg| arg.to_string()));
        let (code, out, err) = self.run(script, &args);
        assert_eq!(err, "", "{script}: {out}");
        (code, out)
    }

    pub(super) fn plist(&self, service: &str) -> PathBuf {
        self.install.join(format!("so.makefile.baa-{service}.plist"))
    }

    /// An installed plist as Python reads it.
    #[track_caller]
    pub(super) fn read(&self, service: &str) -> Value {
        const READ: &str =
            "import json, plistlib, sys; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
        let read = Command::new("python3").args(["-c", READ]).arg(self.plist(service)).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        serde_json::from_slice(&read.stdout).unwrap()
    }

    /// What launchd was asked since the last look.
    pub(super) fn calls(&self) -> Vec<String> {
        let calls = self.launchctl.join("calls");
        let text = fs::read_to_string(&calls).unwrap_or_default();
        let _ = fs::remove_file(calls);
        text.lines().map(str::to_owned).collect()
    }

    /// Runs a service by its installed plist.
    #[track_caller]
    pub(super) fn start(&self, service: &str) -> Daemon {
        let plist = self.read(service);
        let words = strings(&plist["ProgramArguments"]);
        let dir = PathBuf::from(plist["WorkingDirectory"].as_str().unwrap());
        let launch = Launch { program: words[0].clone().into(), args: Vec::new(), env: Vec::new(), dir };
        let launch = launch.args(&words[1..]);
        Daemon::start(
            &variables(&plist).into_iter().fold(launch, |launch, (name, value)| launch.env(name, value)),
        )
    }
}

pub(super) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

pub(super) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    mode(path, 0o755);
}

pub(super) fn permissions(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub(super) fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

pub(super) fn variables(plist: &Value) -> BTreeMap<String, String> {
    let pairs = plist["EnvironmentVariables"].as_object().unwrap();
    pairs.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

pub(super) fn failing(out: &str) -> Vec<&str> {
    out.lines().filter(|line| line.starts_with("FAIL")).collect()
}
