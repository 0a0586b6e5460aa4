use std::ffi::OsString;

use super::*;

fn values(args: &str, env: &[(&str, &str)]) -> Values {
    let look = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    Values::read(FLAGS, args.split_whitespace().map(OsString::from), look).unwrap()
}

fn config(args: &str, env: &[(&str, &str)]) -> Config {
    Config::read(&values(args, env)).unwrap()
}

fn refusal(args: &str, env: &[(&str, &str)]) -> String {
    Config::read(&values(args, env)).unwrap_err().to_string()
}

#[test]
fn the_table_names_everything_once() {
    for (row, flag) in FLAGS.iter().enumerate() {
        assert!(
            !flag.help.is_empty() && (flag.name.starts_with("--") || flag.name == flag.env),
            "{}",
            flag.name
        );
        let twice =
            |other: &&Flag| other.name == flag.name || (!flag.env.is_empty() && other.env == flag.env);
        assert_eq!(FLAGS[..row].iter().find(twice).map(|other| other.name), None);
    }
}

#[test]
fn flags_win_over_the_environment_and_slashes_go() {
    let env = [
        ("BAA_NODE_ID", "mini-main"),
        ("BAA_CONDUCTOR_HOST", "mini"),
        ("BAA_CONDUCTOR_ROLE", "primary"),
        ("BAA_CONTROL_API_BASE", "https://control.example.test/"),
        ("BAA_CODEXD_LOCAL_API_BASE", "http://127.0.0.1:4323/"),
        ("BAA_CONDUCTOR_LOCAL_API", "http://127.0.0.1:4317/"),
        ("BAA_SHARED_TOKEN", "replace-me"),
        ("BAA_RUNS_DIR", "/tmp/runs"),
    ];
    let config = config("start --role standby --priority=7 --preferred", &env);
    assert_eq!(config.identity(), "mini-main@mini(standby)");
    assert_eq!(config.control_api_base.as_deref(), Some("https://control.example.test"));
    assert_eq!(config.codexd.as_ref().unwrap().to_string(), "http://127.0.0.1:4323");
    assert_eq!(config.local_api.as_ref().unwrap().to_string(), "http://127.0.0.1:4317");
    assert_eq!((config.priority, config.preferred, config.runs_dir.to_str()), (7, true, Some("/tmp/runs")));
    assert!(config.uses_placeholder_token());
}

#[test]
fn a_token_that_no_header_can_carry_is_refused() {
    for bad in ["two\nlines", "a\tb", "\u{e4}"] {
        let fault = Config::read(&values("config", &[("BAA_SHARED_TOKEN", bad)])).unwrap_err();
        assert!(fault.0.contains("no caller could send it"), "{fault}");
    }
}

#[test]
fn the_text_shows_what_is_unset_and_never_the_token() {
    let text =
        config("config --shared-token s3cr3t --state-dir /s/conductor --logs-dir /l --runs-dir /r", &[])
            .text();
    let expected = "identity: mini-main@mini(primary)\ncontrol_api_base: not-configured\n\
        codexd_local_api_base: not-configured\nlocal_api_base: not-configured\nfirefox_ws_url: not-configured\n\
        local_api_allowed_hosts: loopback-only\nallowed_origins: none\nauth: host-ops\nshared_token: configured\n\
        priority: 100\npreferred: false\nheartbeat_interval_ms: 5000\nlease_renew_interval_ms: 5000\n\
        lease_ttl_sec: 30\nrenew_failure_threshold: 2\nstate_dir: /s/conductor\nlogs_dir: /l/conductor\n\
        runs_dir: /r\nmax_active_runs: 2\nlog_segment_bytes: 16777216\nlog_total_bytes: 268435456\n\
        warning: BAA_CONDUCTOR_LOCAL_API is not configured; only the in-process snapshot interface is available.\n\
        warning: BAA_CODEXD_LOCAL_API_BASE is not configured; /v1/codex routes will stay unavailable.\n";
    assert_eq!(text, expected);
    let config =
        config("", &[("BAA_CONDUCTOR_LOCAL_API", "http://127.0.0.1:4317"), ("BAA_SHARED_TOKEN", "s3cr3t")]);
    assert!(config.text().contains("\nfirefox_ws_url: ws://127.0.0.1:4317/ws/firefox\n"));
    let everywhere = format!("{}{}{config:?}", config.text(), config.json());
    assert!(!everywhere.contains("s3cr3t"), "{everywhere}");
}

#[test]
fn hosts_from_outside_are_refused() {
    let listen = |url: &str, allowed: &str| {
        let env = [("BAA_CONDUCTOR_LOCAL_API", url), ("BAA_CONDUCTOR_LOCAL_API_ALLOWED_HOSTS", allowed)];
        Config::read(&values("start", &env))
            .map(|config| config.allowed_hosts.join(","))
            .map_err(|fault| fault.0)
    };
    assert_eq!(
        listen("http://100.71.210.78:4317", "100.71.210.78, 100.71.210.79").unwrap(),
        "100.71.210.78,100.71.210.79"
    );
    assert_eq!(
        listen("http://100.71.210.78:4317", "").unwrap_err(),
        "--local-api (BAA_CONDUCTOR_LOCAL_API): `http://100.71.210.78:4317` has a Tailscale address that the allowed \
         hosts do not list"
    );
    for outside in ["http://0.0.0.0:4317", "http://192.168.1.5:4317", "http://mini.example:4317"] {
        assert!(listen(outside, "0.0.0.0,192.168.1.5,mini.example").is_err(), "{outside}");
    }
    let codexd = "--codexd-local-api (BAA_CODEXD_LOCAL_API_BASE)";
    assert_eq!(
        refusal("start --codexd-local-api http://100.71.210.78:4319", &[]),
        format!("{codexd}: `http://100.71.210.78:4319` has a host that is not loopback")
    );
    assert_eq!(
        refusal("start --codexd-local-api http://127.0.0.1:0", &[]),
        format!("{codexd}: `http://127.0.0.1:0` has no port to connect to")
    );
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (args, name) in [
        ("--node-id ../x", "--node-id (BAA_NODE_ID): `../x` is no name"),
        ("--role chief", "--role (BAA_CONDUCTOR_ROLE): `chief` is none of primary, standby"),
        (
            "--lease-ttl-sec 0",
            "--lease-ttl-sec (BAA_CONDUCTOR_LEASE_TTL_SEC): `0` is no whole number from 1 to 86400",
        ),
        ("--heartbeat-interval-ms 99", "--heartbeat-interval-ms (BAA_CONDUCTOR_HEARTBEAT_INTERVAL_MS): `99`"),
        (
            "--lease-renew-interval-ms x",
            "--lease-renew-interval-ms (BAA_CONDUCTOR_LEASE_RENEW_INTERVAL_MS): `x`",
        ),
        (
            "--renew-failure-threshold 1001",
            "--renew-failure-threshold (BAA_CONDUCTOR_RENEW_FAILURE_THRESHOLD): `1001`",
        ),
        ("--priority 1000001", "--priority (BAA_CONDUCTOR_PRIORITY): `1000001`"),
        (
            "--control-api-base mini",
            "--control-api-base (BAA_CONTROL_API_BASE): `mini` is no http or https URL",
        ),
    ] {
        let refusal = refusal(args, &[]);
        assert!(refusal.starts_with(name), "{refusal}");
    }
    for env in
        ["BAA_CONDUCTOR_AUTH", "BAA_CONDUCTOR_ALLOWED_ORIGINS", "BAA_CONDUCTOR_LOCAL_API_ALLOWED_HOSTS"]
    {
        assert!(refusal("", &[(env, "a/b c")]).starts_with(env), "{env}");
    }
}

#[test]
fn the_token_comes_from_its_file_if_it_is_not_given_itself() {
    let dir = std::env::temp_dir().join(format!("conductor-token-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("token");
    let env = [("BAA_SHARED_TOKEN_FILE", file.to_str().unwrap())];
    std::fs::write(&file, "from-file\n").unwrap();
    assert_eq!(config("", &env).token, Some(Token("from-file".to_string())));
    assert_eq!(config("--shared-token given", &env).token, Some(Token("given".to_string())));
    std::fs::write(&file, "\n").unwrap();
    assert!(refusal("", &env).ends_with("is an empty file"));
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(refusal("", &env).contains("cannot be read"));
}

#[test]
fn only_the_token_is_the_token() {
    let token = Token("token".to_string());
    assert!(token.is("token"));
    for other in ["", "toke", "tokem", "tokens", "xoken"] {
        assert!(!token.is(other), "{other}");
    }
}

#[test]
fn warnings_tell_what_to_look_at() {
    let base = "--local-api http://127.0.0.1:4317 --codexd-local-api http://127.0.0.1:4319";
    assert_eq!(config(&format!("{base} --shared-token x"), &[]).warnings(), Vec::<String>::new());
    let close = config(&format!("{base} --shared-token replace-me --lease-ttl-sec 5"), &[]).warnings();
    assert_eq!(close[0], "lease renew interval is >= lease TTL; leader renewals may race with lease expiry.");
    assert_eq!(close[1], "BAA_SHARED_TOKEN is the placeholder `replace-me`; it is taken on loopback alone.");
    let bare = config("", &[]).warnings();
    assert_eq!(bare[2], "BAA_SHARED_TOKEN is not configured; what asks for the token is refused.");
}
