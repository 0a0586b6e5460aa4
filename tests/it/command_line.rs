//! The command line as somebody uses it: against a real daemon, in a pipe and on a terminal.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::codex::Codex;
use e2e::figures;
use e2e::golden::golden;
use e2e::http::{get, post};
use e2e::node::{Node, conductor};
use e2e::process::{Launch, Process, binary};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

use crate::through_codexd::gapless;

/// A model that says what would clear a screen, were it obeyed.
const EVIL: &str = "red\u{1b}[31m and\u{9b}2J gone";

/// What a command that has ended said, and its exit code.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A command for the codexd at this base, in a folder of its own.
fn asks(dir: &TempDir, base: &str, args: &[&str]) -> Launch {
    Launch::of("codexd", dir.path()).args(args).env("BAA_CODEXD_LOCAL_API_BASE", base)
}

fn run(node: &Node, args: &[&str]) -> Said {
    let dir = TempDir::new();
    let (status, out, err) = asks(&dir, node.codexd.url(), args).run(SOON);
    Said { code: status.code(), out, err }
}

/// The same on a terminal of python's; `None`, in one line, where there is no python.
fn on_terminal(node: &Node, args: &[&str], env: &[(&str, &str)]) -> Option<Said> {
    const SPAWN: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no python3");
        figures::print("skipped what is shown on a terminal: there is no python3");
        return None;
    }
    let dir = TempDir::new();
    let python = Launch {
        program: PathBuf::from("python3"),
        args: Vec::new(),
        env: Vec::new(),
        dir: dir.path().to_owned(),
    };
    let mut python = python.args(["-c", SPAWN]).args([binary("codexd")]).args(args);
    for (name, value) in
        [("TERM", "xterm"), ("NO_COLOR", ""), ("BAA_CODEXD_LOCAL_API_BASE", node.codexd.url())]
    {
        python = python.env(name, value);
    }
    for (name, value) in env {
        python = python.env(*name, *value);
    }
    let (status, out, err) = python.run(SOON);
    Some(Said { code: status.code(), out, err })
}

/// A command that goes on.
fn begin(dir: &TempDir, node: &Node, args: &[&str]) -> Process {
    Process::start(&asks(dir, node.codexd.url(), args))
}

#[track_caller]
fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn a_turn_prints_its_answer_and_ends_as_the_turn_does() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    let said = run(&node, &["turn", &session, "[[say first]] [[exec true]] [[say hello you]]"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "hello you\n", ""));
    let said = run(&node, &["turn", &session, "[[say hello]]", "--json"]);
    let turn: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&turn["status"], &turn["text"], said.code), (&json!("completed"), &json!("hello"), Some(0)));
    let said = run(&node, &["turn", &session, "[[fail 500]]"]);
    let id = node.read(&session)["lastTurnId"].clone();
    assert!(said.err.starts_with(&format!("codexd: turn {} failed: ", id.as_str().unwrap())), "{}", said.err);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));

    let (dir, program) = (TempDir::new(), binary("codexd"));
    let shell =
        Launch { program: "sh".into(), args: Vec::new(), env: Vec::new(), dir: dir.path().to_owned() };
    let line = format!("printf '[[say from\\nstdin]]' | {} turn {session} -", program.display());
    let shell = shell.args(["-c", &line]).env("BAA_CODEXD_LOCAL_API_BASE", node.codexd.url());
    let (status, out, err) = shell.run(SOON);
    assert_eq!((status.code(), out.as_str()), (Some(0), "from\nstdin\n"), "{err}");
}

#[test]
fn a_turn_that_is_followed_is_told_as_it_is_written() {
    for codex in Codex::both() {
        follow(&Node::start(&codex, &[]));
    }
}

fn follow(node: &Node) {
    let session = node.session(json!({}));
    let text = "[[exec echo out; exit 3]] [[say-slow 400 one two three four five]] [[big 40]]";
    let dir = TempDir::new();
    let mut turn = begin(&dir, node, &["turn", &session, text, "--follow"]);
    eventually("the first word", SOON, || turn.stdout().starts_with("one").then_some(()));
    assert_eq!(node.read(&session)["lastTurnStatus"], "inProgress", "it came before the end");
    assert_eq!(turn.wait(SOON).unwrap().code(), Some(0));
    let (out, err) = (turn.stdout(), turn.stderr());
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((lines[0], lines.len(), lines[1].len()), ("one two three four five", 2, 40), "{out}");
    let command = "$ /bin/bash -lc 'echo out; exit 3'";
    assert_eq!(err, format!("{command}\n{command} (exit 3)\n"));

    let said = run(node, &["turn", &session, "[[say as json]]", "--follow", "--json"]);
    let events = json_lines(&said.out);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let (first, last) = (&events[0]["type"], &events.last().unwrap()["type"]);
    assert_eq!((first, last), (&json!("turn.accepted"), &json!("app-server.turn.completed")));
}

#[test]
fn who_leaves_a_turn_leaves_it_running() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    for follow in [&["--follow"][..], &[]] {
        let dir = TempDir::new();
        let mut turn =
            begin(&dir, &node, &[&["turn", &session, "[[say-slow 300 a b c d e f]]"], follow].concat());
        let id =
            eventually("a turn", SOON, || node.read(&session)["currentTurnId"].as_str().map(str::to_owned));
        // It has been told of its turn when the first word is there.
        eventually("a word", SOON, || {
            let has =
                node.lines().iter().any(|line| line.contains("turn.message.delta") && line.contains(&id));
            has.then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
        turn.signal("INT");
        assert_eq!(turn.wait(SOON).unwrap().code(), Some(1));
        let said = turn.stderr();
        assert!(
            said.contains(&format!("SIGINT: turn {id} goes on")) && said.contains("/interrupt` ends it"),
            "{said}"
        );
        assert_eq!(node.end(&session, &id, SOON), "completed");
    }
}

#[test]
fn events_in_a_pipe_are_lines_of_json_without_a_gap() {
    let mut node = Node::start(&Codex::Fake, &[]);
    let (session, other) = (node.session(json!({})), node.session(json!({})));
    node.turn(&session, "[[items 1500 100]]");
    let said = run(&node, &["events"]);
    let events = json_lines(&said.out);
    gapless(&events);
    assert_eq!((events.len(), said.code), (node.lines().len(), Some(0)), "all of it, over two pages");
    let written: Vec<Value> = node.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events, written);
    let said =
        run(&node, &["events", "--after", "1400", "--session", &session, "--type", "app-server.turn.*"]);
    let wanted = |event: &&Value| {
        let kind = event["type"].as_str().unwrap();
        event["seq"].as_u64() > Some(1400)
            && event["detail"]["sessionId"] == session.as_str()
            && kind.starts_with("app-server.turn.")
    };
    assert_eq!(json_lines(&said.out), written.iter().filter(wanted).cloned().collect::<Vec<_>>());
    assert_eq!(run(&node, &["events", "--type", "turn*"]).code, Some(1));

    let beyond = run(&node, &["events", "--after", "900000"]);
    assert_eq!((beyond.out.as_str(), beyond.code), ("", Some(0)));
    assert!(
        beyond.err.contains(&format!("events {} to 900000 cannot be had", written.len() + 1)),
        "{}",
        beyond.err
    );

    let (dir, latest) = (TempDir::new(), node.latest());
    let mut followed = begin(&dir, &node, &["events", "--follow", "--after", &(latest - 1).to_string()]);
    eventually("what was there", SOON, || followed.stdout().ends_with('\n').then_some(()));
    node.turn(&other, "[[say later]]");
    let latest = node.latest();
    eventually("what came later", SOON, || {
        let text = followed.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        (json_lines(whole).last()?["seq"] == latest).then_some(())
    });
    node.codexd.kill();
    assert_eq!(followed.wait(SOON).unwrap().code(), Some(69));
    let said = followed.stderr();
    assert!(
        said.contains("no codexd at http") && said.contains(&format!("`--after {latest}` goes on")),
        "{said}"
    );
}

#[test]
fn who_reads_no_further_ends_the_command() {
    let node = Node::start(&Codex::Fake, &[]);
    node.turn(&node.session(json!({})), "[[items 3000 100]]");
    let (dir, program) = (TempDir::new(), binary("codexd"));
    let shell =
        Launch { program: "bash".into(), args: Vec::new(), env: Vec::new(), dir: dir.path().to_owned() };
    let line = format!("{} events --follow | head -n 1; echo ${{PIPESTATUS[0]}}", program.display());
    let (_, out, err) =
        shell.args(["-c", &line]).env("BAA_CODEXD_LOCAL_API_BASE", node.codexd.url()).run(SOON);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((lines.len(), lines[1], err.as_str()), (2, "0", ""), "{out}");
}

#[test]
fn a_terminal_gets_colours_and_nothing_that_it_would_obey() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    let own = |text: &str| {
        ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[33m", "\u{1b}[31m"]
            .iter()
            .fold(text.to_owned(), |text, code| text.replace(code, ""))
    };
    let harmless = |text: &str| !text.chars().any(|c| c.is_control() && !matches!(c, '\r' | '\n'));
    let turn = ["turn", &session, &format!("[[say {EVIL}]] [[exec true]]"), "--follow"];
    let Some(said) = on_terminal(&node, &turn, &[]) else { return };
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.out.starts_with("red\\u001b[31m and\\u009b2J gone\r\n\u{1b}[2m$ /bin/bash"),
        "{:?}",
        said.out
    );
    let piped = run(&node, &["turn", &session, &format!("[[say {EVIL}]]"), "--json"]);
    assert!(harmless(&piped.out), "{:?}", piped.out);
    assert_eq!(serde_json::from_str::<Value>(&piped.out).unwrap()["text"], EVIL, "as JSON it is exact");

    for command in [&["events"][..], &["events", "--json"], &["sessions"], &turn] {
        let said = on_terminal(&node, command, &[]).unwrap();
        let is_json = command.contains(&"--json");
        assert_eq!((said.out.contains("\u{1b}[0m"), said.code), (!is_json, Some(0)), "{command:?}");
        assert!(harmless(&own(&said.out)), "{:?}", own(&said.out));
        for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let said = on_terminal(&node, command, &[plain]).unwrap();
            assert!(!said.out.is_empty() && harmless(&said.out), "{command:?} {plain:?} {:?}", said.out);
        }
    }
    node.turn(&session, &format!("[[say {}]]", "漢字 ".repeat(40)));
    let said = on_terminal(&node, &["events", "--session", &session], &[("NO_COLOR", "1")]).unwrap();
    let columns = |line: &str| line.chars().map(|c| if c > '\u{2e7f}' { 2 } else { 1 }).sum::<usize>();
    let widest = said.out.lines().max_by_key(|line| columns(line)).unwrap();
    assert!(columns(widest) <= 80 && widest.ends_with('…') && said.out.contains("漢字"), "{widest}");
    let evil = "session-\u{1b}[2J";
    let refused = run(&node, &["turn", evil, "x"]);
    assert_eq!(refused.code, Some(1));
    assert!(harmless(&refused.err) && refused.err.contains("\\u001b[2J"), "{:?}", refused.err);
}

#[test]
fn approvals_are_told_and_answered() {
    let node = Node::start(&Codex::Fake, &[]);
    assert_eq!(run(&node, &["approvals"]).out, "Nothing waits.\n");
    assert_eq!(run(&node, &["sessions"]).out, "No session yet.\n");
    let session = node.session(json!({"approvalPolicy": "untrusted"}));
    for (decide, past, text) in
        [("approve", "Approved", "Done: yes"), ("decline", "Declined", "rejected by user")]
    {
        let dir = TempDir::new();
        let mut turn = begin(&dir, &node, &["turn", &session, "[[exec touch made; echo yes]]"]);
        let pending = || {
            get(&node.url("/v1/codexd/approvals")).data(200)["approvals"][0]["approvalId"]
                .as_str()
                .map(str::to_owned)
        };
        let id = eventually("an approval", SOON, pending);
        let hint = format!("`codexd approve {id}` or `codexd decline {id}` answers");
        eventually("a word of it", SOON, || turn.stderr().contains(&hint).then_some(()));
        let listed = run(&node, &["approvals"]);
        assert!(listed.out.starts_with(&format!("{id}  command  {session}  until 2")), "{}", listed.out);
        assert!(
            listed.out.contains("\n    $ /bin/bash -lc 'touch made; echo yes'\n    in /"),
            "{}",
            listed.out
        );
        let json: Value = serde_json::from_str(&run(&node, &["approvals", "--json"]).out).unwrap();
        assert_eq!(json["approvals"][0]["approvalId"], id.as_str());
        let said = run(&node, &[decide, &id]);
        assert!(said.out.starts_with(&format!("{past} {id}: $ /bin/bash -lc 'touch made")), "{}", said.out);
        assert_eq!(turn.wait(SOON).unwrap().code(), Some(0));
        assert!(turn.stdout().contains(text), "{}", turn.stdout());
        let again = run(&node, &[decide, &id]);
        assert_eq!(again.code, Some(1));
        assert!(again.err.contains("was answered already. (conflict, request "), "{}", again.err);
    }
    let table = run(&node, &["sessions"]).out;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("SESSION") && lines[0].ends_with("CWD") && lines.len() == 2, "{table}");
    let cells: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!(
        (cells[0], &cells[1..4]),
        (session.as_str(), &["active", "duplex", "completed"][..]),
        "{table}"
    );
    assert_eq!(Path::new(cells[5]), node.dir.path());
    let json: Value = serde_json::from_str(&run(&node, &["sessions", "--json"]).out).unwrap();
    assert_eq!(json["sessions"][0]["sessionId"], session.as_str());
}

#[test]
fn exit_codes_say_how_it_ended() {
    let mut node = Node::start(&Codex::Fake, &[]);
    for (args, why) in [
        (&["turn", "nobody", "x"][..], "Unknown codexd session \"nobody\". (not_found, request "),
        (&["approve", "../sessions"], "Unknown approval \"../sessions\". (not_found, request "),
        (&["events", "--type", "*"], "(invalid_request, request "),
    ] {
        let said = run(&node, args);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{args:?}: {}", said.err);
        assert!(said.err.starts_with("codexd: ") && said.err.contains(why), "{args:?}: {}", said.err);
    }
    for (args, why) in [
        (&["turn", "s"][..], "`turn` needs TEXT; see `codexd help turn`"),
        (&["turn", "s", " "], "TEXT is empty"),
        (&["events", "--after", "x"], "--after: `x` is no whole number"),
        (&["sessions", "--follow"], "--follow is not for `sessions`, but for `turn`, `events`"),
        (&["sesions"], "unknown command `sesions`; did you mean sessions?"),
        (&["sessions", "--local-api-base", "http://127.0.0.1:0"], "has no port to connect to"),
    ] {
        let said = run(&node, args);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{args:?}: {}", said.err);
        assert!(said.err.contains(why), "{args:?}: {}", said.err);
    }
    // codexd goes away under a turn, and then is not there.
    let (dir, session) = (TempDir::new(), node.session(json!({})));
    let mut turn = begin(&dir, &node, &["turn", &session, "[[say-slow 5000 a b c]]", "--follow"]);
    eventually("a word", SOON, || turn.stdout().starts_with('a').then_some(()));
    let id = node.read(&session)["currentTurnId"].as_str().unwrap().to_owned();
    node.codexd.kill();
    assert_eq!(turn.wait(SOON).unwrap().code(), Some(69));
    assert!(
        turn.stderr().contains(&format!("what becomes of turn {id} is told by GET")),
        "{}",
        turn.stderr()
    );
    let base = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    for args in [
        &["sessions"][..],
        &["approvals"],
        &["events"],
        &["events", "--follow"],
        &["turn", "s", "x"],
        &["decline", "a"],
    ] {
        let (status, out, err) = asks(&TempDir::new(), &base, args).run(SOON);
        assert_eq!((status.code(), out.as_str()), (Some(69), ""), "{args:?}: {err}");
        assert!(err.starts_with(&format!("codexd: no codexd at {base}: ")), "{args:?}: {err}");
    }
}

#[test]
fn a_stop_in_good_order_is_no_end_of_a_turn() {
    let mut node = Node::start(&Codex::Fake, &[]);
    let (dir, events_dir, session) = (TempDir::new(), TempDir::new(), node.session(json!({})));
    let mut turn = begin(&dir, &node, &["turn", &session, "[[say-slow 60000 a b c]]"]);
    let mut events = begin(&events_dir, &node, &["events", "--follow"]);
    eventually("a word", SOON, || events.stdout().contains("turn.message.delta").then_some(()));
    node.codexd.terminate(SOON);
    assert_eq!(events.wait(SOON).unwrap().code(), Some(69), "{}", events.stderr());
    let code = turn.wait(SOON).unwrap().code();
    assert_eq!(code, Some(69), "{}", turn.stderr());
}

#[test]
fn conductor_tells_how_the_node_is() {
    let node = Node::start(&Codex::Fake, &[]);
    node.ready();
    node.session(json!({}));
    let conductor = conductor(&node.dir, node.codexd.url());
    post(&format!("{}/v1/system/pause", conductor.url()), &json!({})).data(200);
    let status = || {
        let dir = TempDir::new();
        let (status, out, err) =
            Launch::of("conductor", dir.path()).args(["status", "--local-api", conductor.url()]).run(SOON);
        assert_eq!(status.code(), Some(0), "{err}");
        out
    };
    let text = status();
    assert!(
        text.contains("\nmode: paused\n") && text.contains("\ncodexd: running, 1 of 1 sessions active\n"),
        "{text}"
    );
    drop(node);
    let text = status();
    assert!(text.contains("\ncodexd: Independent codexd is unavailable at http"), "{text}");
}

/// What the programs' own `help` says, command by command, as one page.
#[test]
fn the_page_of_the_command_line_is_what_help_says() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs");
    let written = fs::read_to_string(docs.join("command-line.md")).unwrap();
    let mut page = written.split("\n## ").next().unwrap().to_owned();
    for program in ["codexd", "conductor", "status-api"] {
        let help = |args: &[&str]| {
            let (status, out, err) = Launch::of(program, TempDir::new().path()).args(args).run(SOON);
            assert_eq!(status.code(), Some(0), "{program} {args:?}: {err}");
            out
        };
        let all = help(&["help"]);
        page += &format!("\n## {program}\n\n```text\n{all}```\n");
        let lines = all.lines().filter_map(|line| line.strip_prefix(&format!("  {program} ")));
        let names: Vec<_> = lines.filter_map(|line| line.split(' ').next()).collect();
        assert!(names.len() > 3, "{all}");
        for name in names.iter().filter(|name| !["help", "version"].contains(name)) {
            let text = help(&["help", name]);
            // What holds for all commands is told once, above.
            let own = text.split("\nSettings (").next().unwrap();
            page += &format!("\n### {program} {name}\n\n```text\n{own}```\n");
        }
    }
    golden("../../docs/command-line.md", &page);
}
