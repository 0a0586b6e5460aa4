//! A node that runs by its installed plists, and the scripts that ask it, and launchd, how it is.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use e2e::http::get;
use e2e::process::{Daemon, Process};
use e2e::wait::{SOON, eventually};

use super::site::{SERVICES, Site, failing};

/// Installs all three, starts them by their plists, and waits until the child is up.
#[track_caller]
fn run(site: &Site) -> [Daemon; 3] {
    assert_eq!(site.with("install-launchd.sh", &["--shared-token-file", &site.token()]).0, Some(0));
    let running = SERVICES.map(|service| site.start(service));
    let readyz = format!("{}/readyz", site.base("codexd"));
    eventually("a child that is up", SOON, || (get(&readyz).status == 200).then_some(()));
    running
}

#[test]
fn a_node_that_runs_by_its_plists_is_well_until_codexd_is_gone() {
    for site in Site::each() {
        let [mut running, _conductor, _status_api] = run(&site);
        assert_eq!(site.with("reload-launchd.sh", &[]).0, Some(0));
        let out = eventually("a node that is well", SOON, || {
            let (code, out) = site.with("check-node.sh", &["--node", "mini"]);
            (code == Some(0)).then_some(out)
        });
        let [codexd, conductor, status] = SERVICES.map(|service| site.base(service));
        assert!(out.ends_with("\n20 ok, 0 failed\n"), "{out}");
        assert!(out.contains(&format!("GET {conductor}/rolez: leader\n")), "{out}");
        // Without addresses, those of the installed copies; with a token, the same.
        let install = site.install.to_str().unwrap().to_owned();
        let args = ["--install-dir".to_owned(), install, "--shared-token-file".to_owned(), site.token()];
        let (code, found, _) = site.run("check-node.sh", &args);
        assert_eq!((code, found), (Some(0), out));

        running.terminate(SOON);
        // status-api looks for itself, and may yet show what it saw last.
        let out = eventually("all that fails", SOON, || {
            let (code, out) = site.with("check-node.sh", &["--node", "mini"]);
            assert_eq!(code, Some(1), "{out}");
            out.contains("data.codexd.ok: false").then_some(out)
        });
        let at = format!("codexd GET {codexd}/v1/codexd/status");
        let through = format!("conductor GET {conductor}/v1/codex");
        let wanted = [
            format!("codexd GET {codexd}/healthz"),
            at.clone(),
            format!("{at} data.service.listening: nothing, not true"),
            format!("{at} data.snapshot.daemon.started: nothing, not true"),
            format!("{at} data.snapshot.daemon.child.status: nothing, not running"),
            format!("{through}: 503, not 200"),
            format!("{through} data.backend: nothing, not independent_codexd"),
            format!("{through} data.proxy.target_base_url: nothing, not {codexd}"),
            format!("{through} data.daemon.child.status: nothing, not running"),
            format!("status-api GET {status}/v1/status data.codexd.ok: false, not true"),
        ];
        let seen = failing(&out).into_iter().map(|line| line.split(": no answer: curl: (7)").next().unwrap());
        assert_eq!(seen.collect::<Vec<_>>(), wanted.map(|line| format!("FAIL  {line}")));
        let (code, out) = site.with("status-launchd.sh", &["--service", "codexd"]);
        assert_eq!(code, Some(69));
        assert!(out.contains(&format!("{codexd}/healthz: no answer: curl:")), "{out}");
    }
}

#[test]
fn launchd_is_asked_for_what_is_installed() {
    for site in Site::each() {
        let _running = run(&site);
        let uid = Command::new("id").arg("-u").output().unwrap();
        let domain = format!("gui/{}", String::from_utf8(uid.stdout).unwrap().trim());
        let label = |service: &str| format!("{domain}/so.makefile.baa-{service}");
        let (code, out, err) = site.run("restart-launchd.sh", &site.options());
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(err.contains("codexd is not loaded: reload-launchd.sh loads it"), "{err}");
        site.calls();

        let answers = SERVICES.map(|service| format!("{service} answers at {}\n", site.base(service)));
        assert_eq!(site.with("reload-launchd.sh", &[]), (Some(0), answers.concat()));
        let reload = |service: &str| {
            let bootstrap = format!("bootstrap {domain} {}", site.plist(service).display());
            [format!("bootout {}", label(service)), format!("print {}", label(service)), bootstrap]
        };
        assert_eq!(site.calls(), SERVICES.map(reload).concat());
        // And one that is loaded already, alone.
        assert_eq!(site.with("reload-launchd.sh", &["--service", "codexd"]).0, Some(0));
        assert_eq!(site.calls(), reload("codexd"));
        assert_eq!(site.with("restart-launchd.sh", &[]), (Some(0), answers.concat()));
        assert_eq!(site.calls(), SERVICES.map(|service| format!("kickstart -k {}", label(service))));
        let (code, out) = site.with("status-launchd.sh", &[]);
        assert_eq!(code, Some(0), "{out}");
        let shown = "== so.makefile.baa-codexd\n\tstate = running\n\tpid = 7\nhttp";
        for part in [shown, "/healthz: ok\n", "\"child\": {"] {
            assert!(out.contains(part), "{out}");
        }

        site.calls();
        let (code, out) = site.with("uninstall-launchd.sh", &[]);
        assert_eq!((code, fs::read_dir(&site.install).unwrap().count()), (Some(0), 0), "{out}");
        let removed =
            |service: &str| [format!("bootout {}", label(service)), format!("print {}", label(service))];
        assert_eq!(site.calls(), SERVICES.map(removed).concat());
        assert!(site.repo.join("state/codexd").is_dir());
        let (code, out) = site.with("uninstall-launchd.sh", &[]);
        assert_eq!(
            (code, out.matches(": not installed").count()),
            (Some(0), 3),
            "once more does no harm: {out}"
        );
    }
}

#[test]
fn systemd_is_asked_for_the_same() {
    for site in Site::each() {
        let _running = run(&site);
        let reload =
            ["show-environment", "daemon-reload", "enable baa-codexd.service", "restart baa-codexd.service"];
        for (script, asked) in [
            ("install-launchd.sh", &[][..]),
            ("reload-launchd.sh", &reload),
            ("restart-launchd.sh", &["show-environment", "restart baa-codexd.service"]),
            ("check-node.sh", &["is-active baa-codexd.service"]),
            (
                "uninstall-launchd.sh",
                &["show-environment", "disable --now baa-codexd.service", "daemon-reload"],
            ),
        ] {
            site.calls();
            let (code, out) = site.with(script, &["--systemd", "--service", "codexd"]);
            assert_eq!(code, Some(0), "{script}: {out}");
            assert_eq!(site.calls(), asked.iter().map(|asked| format!("--user {asked}")).collect::<Vec<_>>());
        }
    }
}

/// A daemon that takes connections and says nothing costs a question its time, and no more; and TERM ends the script.
#[test]
fn a_silent_daemon_holds_nobody_up() {
    for site in Site::each() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", silent.local_addr().unwrap());
        let temp = site.dir.folder("temp");
        let args = ["--service", "status-api", "--status-api-base", &base].map(str::to_owned);
        let launch = || site.launch("check-node.sh", &args).env("TMPDIR", &temp);
        let mut checked = Process::start(&launch());
        let mut killed = Process::start(&launch());
        eventually("both ask", SOON, || (fs::read_dir(&temp).unwrap().count() == 2).then_some(()));
        assert_eq!(killed.terminate(Duration::from_secs(10)).code(), Some(143));
        let status = checked.wait(Duration::from_secs(20)).unwrap();
        assert_eq!(status.code(), Some(1));
        let out = checked.stdout();
        let silent = failing(&out).into_iter().filter(|line| line.contains("no answer: curl: (28)")).count();
        assert_eq!(silent, 2, "{out}");
        assert_eq!(fs::read_dir(&temp).unwrap().count(), 0);
    }
}
