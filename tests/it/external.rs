//! An app-server that somebody else runs: codexd reaches it, loses it, and finds it again, and neither ends the other.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use e2e::codex::{Codex, PINNED, write_home};
use e2e::http::{get, post};
use e2e::model::Model;
use e2e::node::Node;
use e2e::process::{Launch, Process};
use e2e::temp::TempDir;
use e2e::wait::{SOON, eventually};
use serde_json::{Value, json};

/// The first word of a turn, and then a long time for the others.
const FIRST_WORD: Duration = Duration::from_millis(300);
/// A crash loop is tried again after a minute.
const BACK: Duration = Duration::from_secs(75);

/// The real CLI, listening.
struct Server {
    launch: Launch,
    process: Process,
    url: String,
    model: Model,
    _dir: TempDir,
}

impl Server {
    fn start(codex: &Codex) -> Server {
        let dir = TempDir::new();
        let home = dir.folder("home");
        let model = Model::start(0, None).unwrap();
        write_home(&home, codex, &model.base_url(), 2);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("ws://127.0.0.1:{port}");
        let (program, args) = codex.command();
        let launch = Launch { program, ..Launch::of("codexd", dir.path()) }
            .args(args)
            .args(["--listen", &url])
            .env("CODEX_HOME", home)
            .env("HOME", dir.path());
        let process = Process::start(&launch);
        let server = Server { launch, process, url, model, _dir: dir };
        eventually("a server that listens", SOON, || {
            TcpStream::connect(server.url.trim_start_matches("ws://")).ok()
        });
        server
    }
}

fn node(server: &Server) -> Node {
    let node =
        Node::start(&Codex::Fake, &["--server-strategy", "external", "--server-endpoint", &server.url]);
    node.ready();
    node
}

fn child(node: &Node) -> Value {
    node.status()["snapshot"]["daemon"]["child"].take()
}

fn approval(node: &Node) -> String {
    eventually("an approval", SOON, || {
        let listed = get(&node.url("/v1/codexd/approvals")).data(200);
        listed["approvals"].get(0).map(|approval| approval["approvalId"].as_str().unwrap().to_owned())
    })
}

/// codexd is killed in mid-turn, and the turn goes on without it.
fn outlives_codexd(server: &Server, node: &mut Node, session: &str) {
    let turn = node.say(session, "[[say-slow 4000 one two three four]]");
    thread::sleep(FIRST_WORD);
    node.crash();
    node.ready();
    let text = "too early";
    let body = json!({"sessionId": session, "input": text});
    post(&node.url("/v1/codexd/turn"), &body).failure(409, "conflict");
    assert_eq!(node.end(session, &turn, SOON), "completed");
    assert!(server.model.asked().iter().all(|asked| asked.text != text));
}

/// A turn that waits goes on waiting, and asks whoever comes back.
fn asks_again(node: &mut Node) {
    let session = node.session(json!({"approvalPolicy": "untrusted"}));
    let turn = node.say(&session, "[[exec touch asked.txt]]");
    let first = approval(node);
    node.crash();
    let second = approval(node);
    assert_ne!(first, second);
    let url = |id: &str| node.url(&format!("/v1/codexd/approvals/{id}"));
    post(&url(&first), &json!({"decision": "accept"})).failure(409, "conflict");
    post(&url(&second), &json!({"decision": "accept"})).data(200);
    assert_eq!(node.end(&session, &turn, SOON), "completed");
    assert!(node.dir.path().join("asked.txt").exists());
}

/// The server is killed in mid-turn; that is said while it lasts, and ends when another one comes up in its place.
fn loses_the_server(server: &mut Server, node: &Node, session: &str) {
    let turn = node.say(session, "[[say-slow 9000 one two three four]]");
    thread::sleep(FIRST_WORD);
    server.process.kill_all();
    let refused = format!("{} cannot be reached", server.url);
    eventually("word of it", SOON, || {
        let (ready, child) = (get(&node.url("/readyz")), child(node));
        let said = child["lastError"].as_str().is_some_and(|error| error.contains(&refused));
        assert!(child["pid"].is_null(), "{child}");
        (ready.status == 503 && ready.text().contains(&refused) && said).then_some(())
    });
    server.process = Process::start(&server.launch);
    eventually("a connection", BACK, || (get(&node.url("/readyz")).status == 200).then_some(()));
    assert_eq!(node.end(session, &turn, SOON), "interrupted");
    node.turn(session, "[[say again]]");
}

fn external(version: &'static str) {
    let Some(codex) = Codex::of_version(version) else { return };
    let mut server = Server::start(&codex);
    let mut node = node(&server);
    let seen = child(&node);
    assert_eq!((&seen["strategy"], &seen["endpoint"]), (&json!("external"), &json!(server.url)));
    assert_eq!((&seen["pid"], &seen["version"]), (&Value::Null, &json!(version)));
    let (session, fresh) = (node.session(json!({})), node.session(json!({})));
    node.turn(&session, "[[say hello]]");
    outlives_codexd(&server, &mut node, &session);
    node.turn(&fresh, "[[say first words]]"); // it had no turn yet that the server could load it by
    asks_again(&mut node);
    loses_the_server(&mut server, &node, &session);
    let legacy = node.lines().iter().filter(|line| line.contains("codex.event")).count();
    assert_eq!(legacy, 0, "what old versions say twice is no event");
    node.codexd.terminate(SOON);
    assert!(server.process.wait(FIRST_WORD).is_none(), "it is not ours");
}

#[test]
fn turns_outlive_codexd_in_an_app_server_that_is_not_ours() {
    external(PINNED);
}

#[test]
fn so_they_do_in_version_0_107_0() {
    external("0.107.0");
}

#[test]
fn so_they_do_in_version_0_116_0() {
    external("0.116.0");
}

#[test]
fn smoke_takes_the_app_server_that_is_there() {
    let Some(codex) = Codex::of_version(PINNED) else { return };
    let (server, dir) = (Server::start(&codex), TempDir::new());
    let external = ["--server-strategy", "external", "--server-endpoint", &server.url];
    let (status, said, why) = Launch::of("codexd", dir.path()).args(["smoke"]).args(external).run(SOON);
    assert!(status.success(), "{said}{why}");
    assert_eq!(server.model.asked().len(), 1, "{said}");
}
