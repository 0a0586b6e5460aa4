//! A whole node to measure: the three programs, as they run on a machine.

use serde_json::json;

use crate::codex::{Codex, PINNED};
use crate::http::{Events, get, post};
use crate::node::{Node, conductor_launch, status_api};
use crate::process::{Daemon, Launch};
use crate::reader::Reader;

/// Who may write files through conductor.
pub const TOKEN: &str = "s3cret-of-the-bench";

/// codexd, conductor before it, and status-api that looks at both.
pub struct Whole {
    /// codexd with its child.
    pub node: Node,
    /// conductor, with the default settings and a token.
    pub conductor: Daemon,
    /// status-api.
    pub status_api: Daemon,
}

impl Whole {
    /// Starts it with the real CLI where it is installed, and waits until work is taken.
    #[track_caller]
    pub fn start() -> Whole {
        let node = Node::start(&child(), &[]);
        let launch = conductor_launch(Launch::of("conductor", node.dir.path()), node.codexd.url());
        let conductor = Daemon::start(&launch.args(["--shared-token", TOKEN]));
        let status_api = status_api(&node.dir, conductor.url(), node.codexd.url());
        node.ready();
        Whole { node, conductor, status_api }
    }

    /// The daemons by their names.
    pub fn daemons(&self) -> [(&'static str, &Daemon); 3] {
        [("codexd", &self.node.codexd), ("conductor", &self.conductor), ("status-api", &self.status_api)]
    }

    /// What a person does now and then: a look, a session, a turn, a reader that goes again.
    #[track_caller]
    pub fn light_use(&self) {
        let at = |daemon: &Daemon, path: &str| {
            assert_eq!(get(&format!("{}{path}", daemon.url())).status, 200, "{path}");
        };
        at(&self.conductor, "/v1/codex");
        at(&self.conductor, "/v1/system/state");
        at(&self.status_api, "/v1/status");
        let mut reader = Reader::open(&self.node, None);
        let mut events = Events::open("GET", &format!("{}/v1/codex/events", self.conductor.url()), &[], b"");
        let body = json!({"cwd": self.node.dir.path(), "sandbox": "danger-full-access"});
        let made = post(&format!("{}/v1/codex/sessions", self.conductor.url()), &body).data(201);
        let session = made["session"]["sessionId"].as_str().unwrap_or_else(|| panic!("no id: {made}"));
        self.node.turn(session, "[[say hello]]");
        reader.read_on();
        assert!(events.next_data().is_some());
    }
}

/// The real CLI where it is installed, else the stand-in.
#[track_caller]
pub fn child() -> Codex {
    Codex::of_version(PINNED).unwrap_or(Codex::Fake)
}
