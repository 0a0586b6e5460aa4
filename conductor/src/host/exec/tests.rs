use std::sync::atomic::Ordering;
use std::{thread, time::Instant};

use common::child;

use super::super::tests::{host, long_sleep, object, runs};
use super::*;

fn read(given: Value) -> Result<Exec, Fault> {
    Exec::read(&object(given))
}

fn run_in(host: &Host, given: Value) -> Value {
    run(host, &read(given).unwrap(), &|| false).json()
}

fn code(union: &Value) -> &str {
    union["error"]["code"].as_str().unwrap_or("ok")
}

#[test]
fn a_command_is_told_with_its_outputs_and_its_end() {
    let (host, dir) = host();
    let union = run_in(&host, json!({ "command": "cat; echo out; echo err >&2; pwd", "cwd": dir }));
    let real = dir.canonicalize().unwrap();
    assert_eq!(union["ok"], true, "{union}");
    assert_eq!(union["result"]["stdout"], format!("out\n{}\n", real.display()), "and no input");
    assert_eq!((&union["result"]["stderr"], &union["result"]["exitCode"]), (&json!("err\n"), &json!(0)));
    let times = ["startedAt", "finishedAt"].map(|key| union["result"][key].as_str().unwrap().to_owned());
    assert!(times.iter().all(|time| Timestamp::parse(time).is_some()) && times[0] <= times[1], "{times:?}");
    let input = json!({ "command": "cat; echo out; echo err >&2; pwd", "cwd": dir, "timeoutMs": 30_000,
        "maxBufferBytes": 10 * 1024 * 1024 });
    assert_eq!(union["input"], input);
    let keys: Vec<_> = union["result"].as_object().unwrap().keys().collect();
    assert_eq!(keys, empty().keys().collect::<Vec<_>>(), "the same as on bad input");
}

#[test]
fn ends_have_codes() {
    let (host, dir) = host();
    fs::write(dir.join("file"), "").unwrap();
    for (given, expected) in [
        (json!({ "command": "exit 3" }), "EXEC_EXIT_NON_ZERO"),
        (json!({ "command": "kill -TERM $$" }), "EXEC_EXIT_NON_ZERO"),
        (json!({ "command": "sleep 20.01", "timeoutMs": 50 }), "EXEC_TIMEOUT"),
        (json!({ "command": "yes", "maxBufferBytes": 1000 }), "EXEC_OUTPUT_LIMIT"),
        (json!({ "command": "yes >&2", "maxBufferBytes": 1000 }), "EXEC_OUTPUT_LIMIT"),
        (json!({ "command": "true", "cwd": dir.join("none") }), "FILE_NOT_FOUND"),
        (json!({ "command": "true", "cwd": dir.join("file") }), "NOT_A_DIRECTORY"),
        (json!({ "command": "true", "cwd": dir.join("file/x") }), "NOT_A_DIRECTORY"),
        (json!({ "command": ":".repeat(MAX_COMMAND_BYTES) }), "EXEC_EXIT_NON_ZERO"), // it starts
    ] {
        let union = run_in(&host, given.clone());
        assert_eq!(code(&union), expected, "{}", union["error"]);
        assert_eq!(union["result"]["timedOut"], expected == "EXEC_TIMEOUT");
    }
    let killed = run_in(&host, json!({ "command": "kill -TERM $$" }));
    assert_eq!(killed["result"]["signal"], "SIGTERM");
    assert_eq!(killed["error"]["details"], json!({ "exitCode": null, "signal": "SIGTERM" }));
    assert_eq!(run_in(&host, json!({ "command": "exit 3" }))["result"]["exitCode"], 3);
}

#[test]
fn bad_bodies_are_told_by_their_field() {
    for (given, field) in [
        (json!({}), "command"),
        (json!({ "command": 7 }), "command"),
        (json!({ "command": " \n" }), "command"),
        (json!({ "command": "a\0b" }), "command"),
        (json!({ "command": ":".repeat(MAX_COMMAND_BYTES + 1) }), "command"),
        (json!({ "command": "true", "cwd": "" }), "cwd"),
        (json!({ "command": "true", "timeoutMs": 0 }), "timeoutMs"),
        (json!({ "command": "true", "timeoutMs": MAX_TIMEOUT_MS + 1 }), "timeoutMs"),
        (json!({ "command": "true", "maxBufferBytes": MAX_BUFFER_BYTES + 1 }), "maxBufferBytes"),
    ] {
        let fault = read(given).unwrap_err();
        assert_eq!((fault.code, &fault.details["field"]), ("INVALID_INPUT", &json!(field)));
    }
}

#[test]
fn an_output_may_fill_its_bound_and_no_more() {
    let (host, _) = host();
    for (bytes, expected, kept) in
        [(99_999, "ok", 99_999), (100_000, "ok", 100_000), (100_001, "EXEC_OUTPUT_LIMIT", 100_000)]
    {
        let command = format!("head -c {bytes} /dev/zero | tr '\\0' x");
        let union = run_in(&host, json!({ "command": command, "maxBufferBytes": 100_000 }));
        assert_eq!((code(&union), union["result"]["stdout"].as_str().unwrap().len()), (expected, kept));
    }
}

#[test]
fn what_is_no_text_is_shown_as_far_as_it_is_and_says_so() {
    let (host, _) = host();
    let union = run_in(&host, json!({ "command": "printf 'a\\377b'; echo ä >&2" }));
    assert_eq!(
        (union["result"]["stdout"].as_str(), &union["result"]["stdoutLossy"]),
        (Some("a\u{fffd}b"), &json!(true))
    );
    assert_eq!((union["result"]["stderr"].as_str(), union["result"].get("stderrLossy")), (Some("ä\n"), None));
}

#[test]
fn nothing_that_stayed_in_the_group_outlives_the_command() {
    let (host, _) = host();
    for given in [
        json!({ "command": "echo $$; sleep 20.11 & sleep 20.11", "timeoutMs": 100 }),
        json!({ "command": "echo $$; (trap '' TERM HUP; sleep 20.12) & echo" }),
        json!({ "command": "echo $$; for n in $(seq 300); do sleep 20.13 & done" }),
        json!({ "command": "echo $$; sleep 20.14 & yes", "maxBufferBytes": 100 }),
    ] {
        let start = Instant::now();
        let union = run_in(&host, given);
        let group = union["result"]["stdout"].as_str().unwrap().lines().next().unwrap().parse().unwrap();
        assert!(child::wait_until_gone(group, Duration::ZERO), "{union}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[test]
fn pipes_that_others_hold_are_not_waited_for() {
    if Command::new("setsid").arg("true").output().is_err() {
        return; // macOS has none
    }
    let (host, _) = host();
    let start = Instant::now();
    let union = run_in(&host, json!({ "command": "setsid sleep 8.21 & echo done" }));
    assert_eq!(union["result"]["stdout"], "done\n", "{union}");
    let drip = "setsid timeout 8.22 sh -c 'while echo; do sleep 0.001; done' & sleep 0.2; echo done >&2";
    let union = run_in(&host, json!({ "command": drip }));
    assert_eq!((code(&union), &union["result"]["stderr"]), ("ok", &json!("done\n")));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let descriptors = || fs::read_dir("/dev/fd").unwrap().count();
    let before = descriptors();
    (0..20).for_each(|_| drop(run_in(&host, json!({ "command": "setsid sleep 8.23 & true" }))));
    assert!(descriptors() < before + 20, "other tests open some, too");
}

#[test]
fn a_command_that_nobody_wants_is_ended() {
    let (host, _) = host();
    let sleep = long_sleep(31);
    let exec = read(json!({ "command": sleep })).unwrap();
    let start = Instant::now();
    let union = run(&host, &exec, &|| true).json();
    assert_eq!(code(&union), "EXEC_FAILED");
    assert!(start.elapsed() < Duration::from_secs(1) && !runs(&sleep), "{:?}", start.elapsed());
    thread::scope(|scope| {
        let running = scope.spawn(|| run(&host, &exec, &|| host.is_stopping()).json());
        host.stop();
        let union = running.join().unwrap();
        assert!(union["error"]["message"].as_str().unwrap().contains("conductor stops"), "{union}");
    });
}

#[test]
fn all_outputs_together_have_a_bound() {
    let (host, _) = host();
    let most = 48 * 1024 * 1024;
    let before = most - 150_000;
    host.outputs.store(before, Ordering::SeqCst);
    let union = run_in(&host, json!({ "command": "head -c 140000 /dev/zero | tr '\\0' x" }));
    assert_eq!(code(&union), "ok");
    assert_eq!(host.outputs.load(Ordering::SeqCst), before, "what has ended counts no more");
    // As it stands in JSON: six bytes for a zero.
    for command in ["head -c 40000 /dev/zero", "yes"] {
        let union = run_in(&host, json!({ "command": command }));
        assert_eq!((code(&union), &union["error"]["retryable"]), ("EXEC_OUTPUT_LIMIT", &json!(false)));
        assert_eq!(host.outputs.load(Ordering::SeqCst), before);
    }
}

#[test]
fn the_daemons_own_stays_hidden() {
    let token = host().0.token.unwrap();
    let secret = |name: &str, value: &str| is_secret(name.as_ref(), value.as_ref(), Some(&token));
    assert!(secret("BAA_SHARED_TOKEN_FILE", "/x") && secret("BAA_X", "") && secret("OTHER", "secret"));
    assert!(!secret("PATH", "/bin") && !secret("OTHER", "secrets") && !secret("baa_x", "1"));
    assert!(!is_secret("OTHER".as_ref(), "".as_ref(), None));
}

#[test]
fn what_is_kept_is_cut_and_says_so() {
    let (host, _) = host();
    let exec = read(json!({ "command": "printf x; yes ä | head -c 131072; echo >&2" })).unwrap();
    let kept = for_keeping(run(&host, &exec, &|| false)).json();
    let stdout = kept["result"]["stdout"].as_str().unwrap();
    assert!(stdout.len() <= KEPT_BYTES && stdout.len() > KEPT_BYTES - 4, "{}", stdout.len());
    assert_eq!(
        (&kept["result"]["stdoutTruncated"], kept["result"].get("stderrTruncated")),
        (&json!(true), None)
    );
    let lost = lost(&exec).json();
    assert_eq!((code(&lost), &lost["error"]["retryable"]), ("EXEC_FAILED", &json!(false)));
}

#[test]
fn a_command_that_looks_like_an_option_is_none() {
    let (host, _dir) = host();
    let union = run_in(&host, json!({ "command": "-e true" }));
    assert_eq!(code(&union), "EXEC_EXIT_NON_ZERO");
    assert!(union["result"]["stderr"].as_str().unwrap().contains("-e"), "{union}");
}
