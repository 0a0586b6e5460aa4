//! A real browser, driven through its DevTools: it loads pages as a person's would, with all that it forbids them.
//!
//! Chromium without a window, with a profile of its own that goes with it. It loads nothing but what a test names.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::figures;
use crate::http::request;
use crate::process::{Launch, Process};
use crate::temp::TempDir;
use crate::wait::{SOON, eventually};
use crate::websocket::{Got, Socket};

/// It starts many processes on a machine that does other things.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Names under which Debian, Fedora and Google install it.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox", // it refuses to run as root with one
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP *.example 127.0.0.1", // so that a test can be a page from elsewhere
    "--remote-debugging-port=0",
];

/// A running browser.
pub struct Browser {
    base: String,
    _process: Process,
    _dir: TempDir, // after the process that writes there
}

/// One of its tabs.
pub struct Page {
    socket: Socket,
    id: u64,
}

impl Browser {
    /// Starts it. `None`, in one line, where there is none; panics then if `CI` is `true`.
    #[track_caller]
    pub fn start() -> Option<Browser> {
        let Some(program) = find() else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no Chromium");
            figures::print("skipped what needs a browser: Chromium is not installed");
            return None;
        };
        let dir = TempDir::new();
        let profile = dir.folder("profile");
        let launch = Launch { program, args: Vec::new(), env: Vec::new(), dir: dir.path().to_owned() };
        let launch = launch.args(FLAGS).args([format!("--user-data-dir={}", profile.display())]);
        let mut process = Process::start(&launch.args(["about:blank"]).env("HOME", dir.path()));
        let port = eventually("a browser that listens", STARTS_WITHIN, || {
            assert!(process.wait(Duration::ZERO).is_none(), "it ended at once: {}", process.stderr());
            let text = fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
            text.lines().next()?.parse::<u16>().ok()
        });
        Some(Browser { base: format!("http://{}:{port}", Ipv4Addr::LOCALHOST), _process: process, _dir: dir })
    }

    /// A new tab with this page, loaded.
    #[track_caller]
    pub fn open(&self, url: &str) -> Page {
        let made = request("PUT", &format!("{}/json/new?about:blank", self.base), &[], b"").json();
        let address = made["webSocketDebuggerUrl"].as_str().unwrap_or_else(|| panic!("no page: {made}"));
        let socket = Socket::connect(address, &[]).unwrap_or_else(|status| panic!("no page: {status}"));
        let mut page = Page { socket, id: 0 };
        page.call("Page.enable", json!({}));
        page.load(url);
        page
    }
}

impl Page {
    /// Goes to this page and waits until it is loaded.
    #[track_caller]
    pub fn load(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({"url": url}));
        assert!(gone.get("errorText").is_none(), "{url}: {gone}");
        self.until("a loaded page", "document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// The value of an expression, awaited if it is a promise; panics if it throws.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut got = self.call("Runtime.evaluate", params);
        assert!(got.get("exceptionDetails").is_none(), "{expression}: {}", got["exceptionDetails"]);
        got["result"]["value"].take()
    }

    /// Waits until an expression is true; panics with the page's text if that does not come.
    #[track_caller]
    pub fn until(&mut self, what: &str, expression: &str) {
        let end = Instant::now() + SOON;
        while self.eval(expression) != true {
            if Instant::now() > end {
                panic!(
                    "not within {SOON:?}: {what}; the page says\n{}",
                    self.eval("document.body.innerText")
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the page shows this text.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        self.until(text, &format!("document.body.innerText.includes({})", json!(text)));
    }

    /// The size of what is looked at, in CSS pixels; a narrow one is a phone's.
    #[track_caller]
    pub fn resize(&mut self, width: u32, height: u32) {
        let mobile = width < 600;
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", params);
    }

    /// `dark` or `light`, as the user would have set it.
    #[track_caller]
    pub fn scheme(&mut self, name: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": name}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// A picture of the whole page, kept as `NAME.png` in `pictures()`.
    #[track_caller]
    pub fn picture(&mut self, name: &str) {
        let shot = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        let path = pictures().join(format!("{name}.png"));
        let written = fs::write(&path, unbase64(shot["data"].as_str().unwrap_or_default()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// A command of the DevTools protocol.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.id += 1;
        self.socket.send(&json!({"id": self.id, "method": method, "params": params}).to_string());
        let end = Instant::now() + STARTS_WITHIN;
        loop {
            match self.socket.next(end.saturating_duration_since(Instant::now())) {
                Got::Text(mut message) if message["id"] == self.id => {
                    assert!(message.get("error").is_none(), "{method}: {message}");
                    return message["result"].take();
                }
                Got::Text(_) => {} // an event, which nobody waits for
                other => panic!("no answer to {method}: {other:?}"),
            }
        }
    }
}

/// Where pictures are kept for a look: below `BAA_CACHE_DIR`, else in the system's temporary folder.
pub fn pictures() -> PathBuf {
    let parent = std::env::var_os("BAA_CACHE_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = parent.join("pictures");
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut all = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    all.find(|path: &PathBuf| Path::is_file(path))
}

/// The bytes of a text in base64, as browsers write it.
fn unbase64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(value).collect();
    let group = |four: &[u8]| {
        let bits = (0..4).fold(0_u32, |bits, at| bits << 6 | u32::from(four.get(at).copied().unwrap_or(0)));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_come_in_base64() {
        for (text, bytes) in [("", ""), ("TQ==", "M"), ("TWE=", "Ma"), ("TWFu", "Man"), ("TWFuTQ==", "ManM")]
        {
            assert_eq!(unbase64(text), bytes.as_bytes());
        }
    }
}
