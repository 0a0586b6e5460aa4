use super::*;

const TABLE: &[Flag] = &[
    Flag::new("--host", "T_HOST", "HOST", "the host").default("mini"),
    Flag::new("--priority", "T_PRIORITY", "N", "who leads").default("100"),
    Flag::new("--base", "T_BASE", "URL", "the base"),
    Flag::new("--arg", "T_ARGS", "ARG", "an argument of the child").default("app-server").list(' '),
    Flag::switch("--preferred", "T_PREFERRED", "goes first"),
    Flag::switch("--json", "", "JSON, not text"),
    Flag::variable("T_HOSTS", "HOSTS", "who is let in").list(','),
];

fn read(args: &str, env: &[(&str, &str)]) -> Result<Values, Usage> {
    let look = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    Values::read(TABLE, args.split_whitespace().map(OsString::from), look)
}

/// Every value of `name` joined by `|`, or the error.
fn check(args: &str, env: &[(&str, &str)], name: &str, expected: &str) {
    let got = match read(args, env).and_then(|values| values.all(name, string)) {
        Ok(values) => values.join("|"),
        Err(usage) => usage.to_string(),
    };
    assert_eq!(got, expected, "{args} {env:?}");
}

fn refused<T: fmt::Debug>(result: Result<T, Usage>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn flags_win_over_variables_and_variables_over_defaults() {
    check("", &[], "--host", "mini");
    check("", &[("T_HOST", "b")], "--host", "b");
    check("start --host a", &[("T_HOST", "b")], "--host", "a");
    check("--host=a=b start", &[], "--host", "a=b");
    check("", &[("T_HOST", "")], "--host", "mini");
    check("", &[("", "x")], "--json", "false");
    check("", &[("T_HOSTS", "a, b,,c")], "T_HOSTS", "a|b|c");
    check("T_HOSTS x", &[], "T_HOSTS", "");
}

#[test]
fn switches_need_no_value_and_their_variable_says_true_or_false() {
    let preferred = |args: &str, env: &[(&str, &str)]| read(args, env).unwrap().need("--preferred", boolean);
    assert_eq!(preferred("--preferred start", &[]), Ok(true));
    assert_eq!(preferred("start", &[]), Ok(false));
    assert_eq!(preferred("", &[("T_PREFERRED", "1")]), Ok(true));
    let fault = "--preferred (T_PREFERRED): `maybe` is none of true, false, 1, 0";
    assert_eq!(refused(preferred("", &[("T_PREFERRED", "maybe")])), fault);
    assert_eq!(refused(read("--json=yes", &[])), "--json takes no value");
}

#[test]
fn lists_keep_their_order_and_may_hold_what_looks_like_a_flag() {
    check("", &[], "--arg", "app-server");
    check("--arg a --arg=b --arg c", &[("T_ARGS", "x")], "--arg", "a|b|c");
    check("", &[("T_ARGS", " app-server  -c ")], "--arg", "app-server|-c");
    check("--arg --json --arg=--host start", &[], "--arg", "--json|--host");
    check("--arg=\"quoted\"", &[], "--arg", "\"quoted\"");
}

#[test]
fn what_is_left_over_is_an_error_that_names_itself() {
    check("--hots a", &[], "--host", "unknown flag --hots; did you mean --host?");
    check("--nothing-like-it", &[], "--host", "unknown flag --nothing-like-it");
    check("-x", &[], "--host", "unknown flag -x");
    check("--host", &[], "--host", "--host needs a value");
    check("--host=", &[], "--host", "--host needs a value");
    check("--host a --host b", &[], "--host", "--host is given more than once");
    check("--json --json", &[], "--host", "--json is given more than once");
}

#[test]
fn a_command_takes_exactly_its_arguments() {
    let turn =
        |args: &str| read(args, &[]).unwrap().arguments(["SESSION", "TEXT"]).map(|found| found.join("|"));
    assert_eq!(turn("--json turn s t"), Ok("s|t".to_string()));
    assert_eq!(turn("turn s -- -t"), Ok("s|-t".to_string()));
    assert_eq!(refused(turn("turn s")), "`turn` needs TEXT");
    assert_eq!(refused(turn("turn s t u")), "unexpected argument `u` after `turn`");
    assert_eq!(
        refused(read("start now", &[]).unwrap().arguments([])),
        "unexpected argument `now` after `start`"
    );
    for (args, command) in
        [("", ""), ("--host a start", "start"), ("start -h", "help"), ("--version", "version")]
    {
        assert_eq!(read(args, &[]).unwrap().command(), command, "{args}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_by_name() {
    use std::os::unix::ffi::OsStringExt;
    let bad = || OsString::from_vec(vec![0xff]);
    let values = |args: Vec<OsString>| refused(Values::read(TABLE, args, |_| None));
    assert_eq!(values(vec!["--host".into(), bad()]), "the value of --host is not UTF-8");
    assert_eq!(values(vec![bad()]), "an argument is not UTF-8: \u{fffd}");
    let env = |name: &str| (name == "T_BASE").then(bad);
    assert_eq!(refused(Values::read(TABLE, [], env)), "T_BASE is not UTF-8: \u{fffd}");
}

#[test]
fn numbers_keep_their_bounds() {
    let number = |text: &str| read("", &[("T_PRIORITY", text)]).unwrap().need("--priority", integer(1..=300));
    assert_eq!(number("1"), Ok(1));
    assert_eq!(number("300"), Ok(300));
    for bad in ["0", "301", "-1", "+5", "1.5", "x", "99999999999999999999999"] {
        let fault = format!("--priority (T_PRIORITY): `{bad}` is no whole number from 1 to 300");
        assert_eq!(refused(number(bad)), fault);
    }
    assert_eq!(refused(read("", &[]).unwrap().need("--base", string)), "--base (T_BASE) is required");
    assert_eq!(read("", &[]).unwrap().get("--base", string), Ok(None));
}

#[test]
fn base_urls_lose_their_slash() {
    assert_eq!(base_url("https://control.example.test/").unwrap(), "https://control.example.test");
    assert_eq!(base_url("http://127.0.0.1:4318//").unwrap(), "http://127.0.0.1:4318");
    for bad in ["", "control.example.test", "ftp://x", "https://", "http:///x", "https://a b", "https://x?y"]
    {
        assert!(base_url(bad).is_err(), "{bad}");
    }
}

#[test]
fn local_urls_name_a_host_and_a_port() {
    for (text, shown) in [
        ("http://127.0.0.1:4317/", "http://127.0.0.1:4317"),
        ("http://LOCALHOST:0", "http://localhost:0"),
        ("http://[::1]:4317", "http://[::1]:4317"),
    ] {
        assert_eq!(LocalUrl::parse(text).unwrap().to_string(), shown);
    }
    for bad in [
        "",
        "127.0.0.1:4317",
        "https://127.0.0.1:4317",
        "http://127.0.0.1",
        "http://127.0.0.1:",
        "http://127.0.0.1:+80",
        "http://127.0.0.1:65536",
        "http://:80",
        "http://::1:80",
        "http://[::1]",
        "http://[localhost]:80",
        "http://u@127.0.0.1:80",
        "http://127.0.0.1:80/x",
    ] {
        assert!(LocalUrl::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn only_loopback_and_listed_tailscale_hosts_are_let_in() {
    let allowed = [
        "100.71.210.78",
        "100.64.0.0",
        "100.127.255.255",
        "100.63.255.255",
        "100.128.0.0",
        "10.0.0.1",
        "0.0.0.0",
    ];
    let allowed = allowed.map(str::to_string);
    let wide =
        |host: &str| LocalUrl { host: host.to_string(), port: 1 }.loopback_or_tailscale(&allowed).is_ok();
    let narrow = |host: &str| LocalUrl { host: host.to_string(), port: 1 }.loopback().is_ok();
    for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1"] {
        assert!(wide(host) && narrow(host), "{host}");
    }
    for host in ["100.71.210.78", "100.64.0.0", "100.127.255.255"] {
        assert!(wide(host) && !narrow(host), "{host}");
    }
    for host in [
        "100.71.210.79",
        "100.63.255.255",
        "100.128.0.0",
        "10.0.0.1",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
        "x.ts.net",
    ] {
        assert!(!wide(host) && !narrow(host), "{host}");
    }
}

#[test]
fn a_directory_with_the_daemons_name_is_used_as_it_is() {
    assert_eq!(own_directory(Path::new("/a/state"), "codexd"), Path::new("/a/state/codexd"));
    assert_eq!(own_directory(Path::new("/a/codexd/"), "codexd"), Path::new("/a/codexd"));
}

#[test]
fn the_help_shows_flag_variable_and_default() {
    let shown = help(&[&TABLE[0]]) + &help(&[&TABLE[3]]) + &help(&TABLE[5..].iter().collect::<Vec<_>>());
    let expected = "  --host HOST  the host [T_HOST, default mini]\n  \
        --arg ARG  an argument of the child [T_ARGS, repeatable, default app-server]\n  --json         JSON, not text\n  \
        T_HOSTS HOSTS  who is let in [repeatable]\n";
    assert_eq!(shown, expected);
}
