//! The operator's scripts, under dash and under busybox, where there is nothing but its applets and curl: what they render
//! is read by somebody else's parser and by the daemons themselves, run, and checked by them.
//!
//! `launchctl` is a recorder here. The folders have names that XML and units must escape.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use e2e::process::binary;
use serde_json::{Value, json};

use site::{PATIENCE, SERVICES, Site, TOKEN, failing, mode, permissions, root, strings, tool, variables};

mod node;
mod site;

/// A plist of a service with these variables, whole.
fn expected(site: &Site, service: &str, kind: &str, variables: Value) -> Value {
    let log = site.repo.join(format!("logs/launchd/{service}.log"));
    json!({
        "Label": format!("so.makefile.baa-{service}"),
        "ProgramArguments": [binary(service), "start"],
        "WorkingDirectory": site.repo,
        "EnvironmentVariables": variables,
        "RunAtLoad": true,
        "KeepAlive": true,
        "ThrottleInterval": 5,
        "ExitTimeOut": 15,
        "ProcessType": kind,
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        "HardResourceLimits": {"NumberOfFiles": 8192},
        "StandardOutPath": log,
        "StandardErrorPath": log,
    })
}

fn path_of(home: &Path) -> String {
    let home = home.to_str().unwrap();
    format!(
        "{home}/.local/bin:{home}/.npm-global/bin:/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    )
}

/// The variables of all three, token by file.
fn environments(site: &Site) -> [Value; 3] {
    let repo = site.repo.to_str().unwrap();
    let codexd = json!({
        "HOME": site.home,
        "PATH": path_of(&site.home),
        "BAA_NODE_ID": "mini-main",
        "BAA_CODEXD_REPO_ROOT": repo,
        "BAA_CODEXD_LOCAL_API_BASE": site.base("codexd"),
        "BAA_CODEXD_EVENT_STREAM_PATH": "/v1/codexd/events",
        "BAA_CODEXD_LOGS_DIR": format!("{repo}/logs/codexd"),
        "BAA_CODEXD_STATE_DIR": format!("{repo}/state/codexd"),
        "BAA_CODEXD_SERVER_STRATEGY": "spawn",
        "BAA_CODEXD_SERVER_ENDPOINT": "stdio://",
        "BAA_CODEXD_SERVER_COMMAND": "codex",
        "BAA_CODEXD_SERVER_ARGS": "app-server",
        "BAA_CODEXD_SERVER_CWD": repo,
    });
    let conductor = json!({
        "HOME": site.home,
        "PATH": path_of(&site.home),
        "BAA_NODE_ID": "mini-main",
        "BAA_CONDUCTOR_HOST": "mini",
        "BAA_CONDUCTOR_ROLE": "primary",
        "BAA_CONDUCTOR_LOCAL_API": site.base("conductor"),
        "BAA_CODEXD_LOCAL_API_BASE": site.base("codexd"),
        "BAA_SHARED_TOKEN_FILE": site.token(),
        "BAA_STATE_DIR": format!("{repo}/state"),
        "BAA_LOGS_DIR": format!("{repo}/logs"),
        "BAA_RUNS_DIR": format!("{repo}/runs"),
    });
    let status_api = json!({
        "HOME": site.home,
        "BAA_STATUS_API_LOCAL_API": site.base("status-api"),
        "BAA_CONDUCTOR_LOCAL_API": site.base("conductor"),
        "BAA_CODEXD_LOCAL_API_BASE": site.base("codexd"),
    });
    [codexd, conductor, status_api]
}

#[test]
fn what_could_lead_astray_is_refused_and_left_alone() {
    for site in Site::each() {
        let elsewhere = site.dir.folder("elsewhere");
        let before = permissions(&elsewhere);
        std::os::unix::fs::symlink(&elsewhere, site.repo.join("state")).unwrap();
        let install = |more: &[&str]| {
            let args = site.options().into_iter().chain(more.iter().map(|arg| arg.to_string()));
            let (code, _, err) = site.run("install-launchd.sh", &args.collect::<Vec<_>>());
            (code, err)
        };
        let (code, err) = install(&["--service", "status-api"]);
        assert_eq!((code, err.contains("state is a link")), (Some(1), true), "{err}");
        assert_eq!(permissions(&elsewhere), before);
        fs::remove_file(site.repo.join("state")).unwrap();
        fs::create_dir_all(site.plist("status-api")).unwrap();
        let (code, err) = install(&["--service", "status-api"]);
        assert_eq!((code, err.contains("is a folder")), (Some(1), true), "{err}");
        let token = site.dir.path().join("token-of-two-lines");
        fs::write(&token, "abc\nurl = file:///etc/hostname\n").unwrap();
        mode(&token, 0o600);
        let (code, err) = install(&["--shared-token-file", token.to_str().unwrap()]);
        assert_eq!((code, err.contains("more than one line")), (Some(2), true), "{err}");
        for base in ["http://127.0.0.1:99999", "http://127.evil.example:80"] {
            let (code, err) = install(&["--codexd-local-api-base", base]);
            assert_eq!(code, Some(2), "{base}: {err}");
        }
    }
}

/// A stranger where a daemon should be: what it says steers no terminal and fills no disk.
#[test]
fn a_stranger_is_shown_without_harm_and_within_bounds() {
    for site in Site::each() {
        let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", stranger.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in stranger.incoming().flatten() {
                std::thread::spawn(move || {
                    use std::io::{Read, Write};
                    let mut stream = stream;
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\x1b]0;title\x07<html>\n");
                    while stream.write_all(&[b'a'; 65536]).is_ok() {}
                });
            }
        });
        let (_, out, err) = site.run(
            "check-node.sh",
            &["--service", "status-api", "--status-api-base", &base].map(str::to_owned),
        );
        assert!(!out.contains('\u{1b}') && !out.contains('\u{7}') && out.contains("0 ok, "), "{out}{err}");
    }
}

#[test]
fn what_is_rendered_is_whole_and_private_and_the_same_each_time() {
    for site in Site::each() {
        let mut first = Vec::new();
        for _ in 0..2 {
            let (code, out) = site.with("install-launchd.sh", &["--shared-token-file", &site.token()]);
            assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}");
            let environments = environments(&site);
            let kinds = ["Interactive", "Interactive", "Background"];
            for ((service, kind), variables) in SERVICES.into_iter().zip(kinds).zip(environments) {
                assert_eq!(site.read(service), expected(&site, service, kind, variables));
                assert_eq!(permissions(&site.plist(service)), 0o600);
            }
            let texts = SERVICES.map(|service| fs::read(site.plist(service)).unwrap());
            first.push((texts, fs::read_dir(&site.install).unwrap().count()));
        }
        assert_eq!((&first[0], first[0].1), (&first[1], 3));
        for folder in ["state", "logs", "logs/launchd", "runs"] {
            assert_eq!(permissions(&site.repo.join(folder)), 0o700, "{folder}");
        }
        assert_eq!(site.calls(), [""; 0], "install loads nothing");
        let (code, out) = site.with("check-launchd.sh", &[]);
        assert_eq!((code, failing(&out)), (Some(0), vec![]), "{out}");
        let elsewhere = ["--service", "codexd", "--codex", "/an odd/codex", "--path", "/first:/a & b"];
        site.with("install-launchd.sh", &elsewhere);
        let variables = &site.read("codexd")["EnvironmentVariables"];
        assert_eq!(variables["PATH"], format!("/first:/a & b:{}", path_of(&site.home)));
        assert_eq!(variables["BAA_CODEXD_SERVER_COMMAND"], "/an odd/codex");
    }
}

#[test]
fn addresses_token_and_scope_are_rendered_as_they_are_given() {
    for site in Site::each() {
        let conductor = "http://100.71.210.78:4317";
        let given = [
            ["--local-api-base", conductor],
            ["--status-api-base", "http://100.71.210.78:4318/"],
            ["--control-api-base", "https://node.example/?a&b"],
            ["--shared-token", TOKEN],
            ["--scope", "daemon"],
        ];
        let (code, out) = site.with("install-launchd.sh", given.as_flattened());
        assert_eq!(code, Some(0), "{out}");
        let plist = site.read("conductor");
        let set = variables(&plist);
        let shown = [
            "BAA_CONDUCTOR_LOCAL_API",
            "BAA_CONDUCTOR_LOCAL_API_ALLOWED_HOSTS",
            "BAA_CONTROL_API_BASE",
            "BAA_SHARED_TOKEN",
        ];
        let shown = shown.map(|name| set[name].as_str());
        assert_eq!(shown, [conductor, "100.71.210.78", "https://node.example/?a&b", TOKEN]);
        assert!(!set.contains_key("BAA_SHARED_TOKEN_FILE"));
        let owner = Command::new("stat").args(["-c", "%U"]).arg(&site.home).output().unwrap();
        assert_eq!(plist["UserName"], String::from_utf8(owner.stdout).unwrap().trim());
        let status = variables(&site.read("status-api"));
        assert_eq!(status["BAA_STATUS_API_LOCAL_API"], "http://100.71.210.78:4318");
        assert_eq!(status["BAA_STATUS_API_ALLOWED_HOSTS"], "100.71.210.78");
        assert!(!fs::read_to_string(site.plist("codexd")).unwrap().contains("s3cret"));

        let (code, out) = site.with("check-launchd.sh", given.as_flattened());
        assert_eq!((code, failing(&out)), (Some(0), vec![]), "{out}");
        assert!(out.contains("BAA_CONTROL_API_BASE: https://node.example/?a&b"), "{out}");
        assert!(!out.contains("s3cret"), "{out}");
        let (code, out) =
            site.with("check-launchd.sh", &[given.as_flattened(), &["--shared-token", "x"]].concat());
        let fault =
            "conductor token: it is missing, the placeholder, or another one; see --shared-token-file";
        assert_eq!((code, failing(&out)), (Some(1), vec![format!("FAIL  {fault}").as_str()]), "{out}");
    }
}

/// What a template sets, its program knows; and reads as it was meant.
#[test]
fn the_daemons_read_what_is_rendered() {
    for site in Site::each() {
        assert_eq!(site.with("install-launchd.sh", &["--shared-token-file", &site.token()]).0, Some(0));
        let repo = site.repo.to_str().unwrap();
        let wanted = [
            json!({
                "node_id": "mini-main",
                "repo_root": repo,
                "logs_dir": format!("{repo}/logs/codexd"),
                "state_dir": format!("{repo}/state/codexd"),
                "local_api_base": site.base("codexd"),
                "event_stream_path": "/v1/codexd/events",
                "server_strategy": "spawn",
                "server_endpoint": "stdio://",
                "server_command": "codex",
                "server_args": ["app-server"],
                "server_cwd": repo,
            }),
            json!({
                "identity": "mini-main@mini(primary)",
                "local_api_base": site.base("conductor"),
                "codexd_local_api_base": site.base("codexd"),
                "shared_token": "configured",
                "state_dir": format!("{repo}/state/conductor"),
                "logs_dir": format!("{repo}/logs/conductor"),
                "runs_dir": format!("{repo}/runs"),
                "warnings": [],
            }),
            json!({
                "local_api_base": site.base("status-api"),
                "conductor_local_api_base": site.base("conductor"),
                "codexd_local_api_base": site.base("codexd"),
            }),
        ];
        for (service, wanted) in SERVICES.into_iter().zip(wanted) {
            let plist = site.read(service);
            let program = &strings(&plist["ProgramArguments"])[0];
            let variables = variables(&plist);
            let ask = |args: &[&str]| {
                let mut command = Command::new(program);
                let asked =
                    command.args(args).env_clear().envs(&variables).current_dir("/").output().unwrap();
                assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
                String::from_utf8(asked.stdout).unwrap()
            };
            let config: Value = serde_json::from_str(&ask(&["config", "--json"])).unwrap();
            for (name, value) in wanted.as_object().unwrap() {
                assert_eq!(&config[name], value, "{service} {name}");
            }
            let help = ask(&["help"]);
            let known: Vec<_> = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
            // Those that are rendered on demand, too.
            let template =
                fs::read_to_string(root().join(format!("launchd/so.makefile.baa-{service}.plist")));
            let template = template.unwrap();
            let set = template.split("<key>").filter_map(|part| part.split_once("</key><string>"));
            for (name, _) in set.filter(|(name, _)| name.starts_with("BAA_")) {
                assert!(known.contains(&name), "{service} does not know {name}");
            }
        }
    }
}

#[test]
fn units_say_the_same_to_systemd() {
    for site in Site::each() {
        for form in [&[][..], &["--systemd"]] {
            let token = site.token();
            let (code, out) =
                site.with("install-launchd.sh", &[form, &["--shared-token-file", &token]].concat());
            assert_eq!(code, Some(0), "{out}");
        }
        let mut units = Vec::new();
        for service in SERVICES {
            let unit = site.install.join(format!("baa-{service}.service"));
            assert_eq!(permissions(&unit), 0o600);
            let text = fs::read_to_string(&unit).unwrap();
            let values =
                |key: &str| text.lines().filter_map(|line| line.strip_prefix(key)).collect::<Vec<_>>();
            let plain = |text: &str| text.replace("%%", "%").replace("\\\"", "\"");
            assert!(!text.replace("%%", "").contains('%'), "systemd would expand it: {text}");
            let set = values("Environment=\"").into_iter().map(|pair| plain(pair.strip_suffix('"').unwrap()));
            let set: BTreeMap<_, _> = set
                .map(|pair| pair.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap())
                .collect();
            let plist = site.read(service);
            assert_eq!(set, variables(&plist));
            assert_eq!(plain(values("WorkingDirectory=")[0]), plist["WorkingDirectory"].as_str().unwrap());
            assert_eq!(values("ExecStart="), [format!("\"{}\" start", binary(service).display())]);
            units.push(unit);
        }
        if let Some(analyze) = tool("systemd-analyze") {
            let runtime = site.dir.folder("runtime");
            let mut command = Command::new(analyze);
            command.args(["verify", "--user"]).args(&units).env("XDG_RUNTIME_DIR", runtime);
            let verified = command.output().unwrap();
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(verified.status.success() && !said.contains("baa-"), "{said}");
        }
    }
}

#[test]
fn check_launchd_finds_what_is_wrong() {
    for site in Site::each() {
        let missing = site.with("check-launchd.sh", &["--service", "codexd"]);
        let plist = site.plist("codexd");
        let first = format!("FAIL  codexd {}: nothing, not installed", plist.display());
        assert_eq!((missing.0, missing.1.lines().next()), (Some(1), Some(first.as_str())));

        assert_eq!(
            site.with("install-launchd.sh", &["--service", "codexd"]).0,
            Some(0),
            "codexd needs no token"
        );
        let text = fs::read_to_string(&plist).unwrap();
        assert!(!text.contains("TOKEN"), "{text}");
        let broken = text.replace("<string>app-server", "<string>tui").replace("/v1/codexd/events", "/other");
        assert_ne!(broken, text);
        fs::write(&plist, broken.replace("\t\t<key>BAA_NODE_ID</key><string>mini-main</string>\n", ""))
            .unwrap();
        mode(&plist, 0o644);
        mode(&site.repo.join("logs"), 0o755);
        fs::remove_file(site.home.join(".local/bin/codex")).unwrap();
        let (code, out) = site.with("check-launchd.sh", &["--service=codexd"]);
        let path = path_of(&site.home);
        let wanted = [
            format!("FAIL  permissions of {}: -rw-r--r--, not -rw-------", plist.display()),
            "FAIL  codexd EnvironmentVariables.BAA_NODE_ID: nothing, not mini-main".to_owned(),
            "FAIL  codexd EnvironmentVariables.BAA_CODEXD_EVENT_STREAM_PATH: /other, not /v1/codexd/events"
                .to_owned(),
            "FAIL  codexd EnvironmentVariables.BAA_CODEXD_SERVER_ARGS: tui, not app-server".to_owned(),
            format!("FAIL  codexd app-server child: codex is not on the PATH of the service, {path}"),
            format!("FAIL  permissions of {}/logs: drwxr-xr-x, not drwx------", site.repo.display()),
        ];
        assert_eq!((code, failing(&out)), (Some(1), wanted.iter().map(String::as_str).collect()), "{out}");
    }
}

#[test]
fn bad_input_is_named_and_nothing_is_done() {
    for site in Site::each() {
        let open = site.dir.path().join("open");
        fs::write(&open, TOKEN).unwrap();
        mode(&open, 0o644);
        let open = open.to_str().unwrap();
        let cases: [(&[&str], &str); 17] = [
            (&["--nonsense", "x"], "there is no option --nonsense"),
            (&["more"], "unexpected argument `more`"),
            (&["--service"], "--service needs a value"),
            (&["--service", "codex"], "--service: `codex` is none of codexd conductor status-api"),
            (&["--node", "maxi"], "--node: `maxi` is not known; known is mini"),
            (&["--scope", "user"], "--scope: `user` is none of agent, daemon"),
            (&["--systemd", "--scope", "daemon"], "--scope daemon is launchd's"),
            (&["--local-api-base", "127.0.0.1:1"], "--local-api-base: `127.0.0.1:1` is no URL"),
            (&["--local-api-base", "http://127.0.0.1"], "--local-api-base: `http://127.0.0.1` is no URL"),
            (&["--status-api-base", "http://h:1/x"], "--status-api-base: `http://h:1/x` is no URL"),
            (&["--codexd-local-api-base", "http://100.64.0.1:1"], "is not loopback"),
            (&["--control-api-base", "ftp://x"], "--control-api-base: `ftp://x` is no http"),
            (&["--shared-token-file", "/nowhere"], "--shared-token-file: /nowhere cannot be read"),
            (&["--shared-token-file", open], "can be read by others: chmod 600 it"),
            (&["--repo-dir", "a\nb"], "--repo-dir: a value has no control characters"),
            (&["--repo-dir", "a\\b"], "--repo-dir: a value has no control characters and no backslash"),
            (&[], "conductor needs --shared-token-file FILE; without it there is --service codexd"),
        ];
        for (args, why) in cases {
            let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
            let (code, out, err) = site.run("install-launchd.sh", &[site.options(), args.clone()].concat());
            assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?} {err}");
            assert!(err.starts_with("install-launchd.sh: ") && err.contains(why), "{args:?}: {err}");
        }
        assert!(!site.install.exists() && !site.repo.join("state").exists());
        let args =
            [site.options(), ["--service", "codexd", "--bin-dir", "/nowhere"].map(str::to_owned).to_vec()];
        let (code, _, err) = site.run("install-launchd.sh", &args.concat());
        assert_eq!(code, Some(1));
        assert!(err.contains("there is no program /nowhere/codexd"), "{err}");
        for script in fs::read_dir(root().join("scripts/runtime")).unwrap() {
            let name = script.unwrap().file_name().into_string().unwrap();
            if name != "lib.sh" {
                let (code, out, _) = site.run(&name, &["--help".to_owned()]);
                assert!(code == Some(0) && out.starts_with(&name), "{name}: {out}");
                assert_eq!(site.run(&name, &["--nonsense".to_owned()]).0, Some(2), "{name}");
            }
        }
    }
}

#[test]
fn the_smoke_needs_no_more_than_a_shell_python_and_curl() {
    for site in Site::each() {
        // What is named python3 may be a wrapper that wants more.
        let python =
            Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        let tools = site.dir.folder("tools");
        symlink(String::from_utf8(python.stdout).unwrap().trim(), tools.join("python3")).unwrap();
        let path = format!("{}:{}", site.shell.path, tools.display());
        let bin = binary("codexd").parent().unwrap().to_owned();
        let launch = site.launch("codexd-e2e-smoke.sh", &[]).env("PATH", path).env("BAA_BIN_DIR", bin);
        let (status, out, err) = launch.run(PATIENCE);
        assert_eq!((status.code(), failing(&out)), (Some(0), vec![]), "{out}{err}");
        assert!(out.ends_with(" 0 failed, with the fake app-server\n"), "{out}");
    }
}
