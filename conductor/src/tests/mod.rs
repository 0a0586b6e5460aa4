//! conductor over real sockets, with a scripted codexd behind it.

mod describe;
mod failures;
mod host;
mod leaving;
mod node;
mod passing;
mod safety;
mod streams;
mod tunnel;

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::config::Values;
use crossbeam_channel::Sender;
use serde_json::Value;

use crate::api::Node;
use crate::config::{Config, FLAGS};
use crate::core::Input;
use crate::daemon::Daemon;
use crate::upstream::Deadlines;

/// Long enough for a busy machine; nothing waits for it unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it came.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Plays codexd: reads each request, then does what the script does with the socket.
struct Upstream {
    base: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that were made, and those of them that are open.
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Upstream {
    /// `script` writes the answer; after an error the connection closes.
    fn start(script: impl Fn(&Seen, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (seen, connections, open) = (Arc::new(Mutex::new(Vec::new())), Arc::default(), Arc::default());
        let upstream = Upstream { base, seen, connections, open };
        let (kept, script) = (upstream.seen.clone(), Arc::new(script));
        let (counted, open) = (upstream.connections.clone(), upstream.open.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, kept, script) = (stream.unwrap(), kept.clone(), script.clone());
                counted.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let open = open.clone();
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while let Some((line, headers)) = head(&mut reader) {
                        let mut seen = Seen { line, headers, body: String::new() };
                        let length = seen.header("content-length").map_or(0, |value| value.parse().unwrap());
                        (&mut reader).take(length).read_to_string(&mut seen.body).unwrap();
                        kept.lock().unwrap().push(seen.clone());
                        if script(&seen, &mut stream).is_err() {
                            break;
                        }
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        upstream
    }

    /// Gives every request this answer.
    fn always(status: u16, body: &'static str) -> Upstream {
        Upstream::start(move |_, stream| answer(stream, status, "", body))
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn answer(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Scripted\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// Waits for a condition.
fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came");
        thread::sleep(Duration::from_millis(2));
    }
}

fn closed() -> io::Result<()> {
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// conductor on a free port, in folders of its own; it leads.
struct Front {
    address: SocketAddr,
    connections: Box<dyn Fn() -> usize + Send + Sync>,
    node: Arc<Node>,
    calls: Sender<Input>,
    thread: Option<thread::JoinHandle<()>>,
    dir: PathBuf,
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.calls.send(Input::Stop("test"));
        let _ = self.thread.take().map(thread::JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Front {
    fn start(args: &str) -> Front {
        Front::with(args, Deadlines::default())
    }

    fn before(upstream: &Upstream) -> Front {
        Front::start(&format!("--codexd-local-api {}", upstream.base))
    }

    fn with(args: &str, deadlines: Deadlines) -> Front {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("baa-front-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(unique);
        let folders = format!("BAA_STATE_DIR={0}/state BAA_LOGS_DIR={0}/logs", dir.display());
        let args = format!("start --local-api http://127.0.0.1:0 {folders} {args}");
        let env = |name: &str| {
            args.split(' ').find_map(|word| word.strip_prefix(&format!("{name}="))).map(OsString::from)
        };
        let flags =
            args.split(' ').filter(|word| !word.is_empty() && !word.starts_with("BAA_")).map(OsString::from);
        let config = Config::read(&Values::read(FLAGS, flags, env).unwrap()).unwrap();
        let daemon = Daemon::start(config, TcpListener::bind("127.0.0.1:0").unwrap(), deadlines).unwrap();
        let (address, node, calls) = (daemon.running.address(), daemon.node.clone(), daemon.calls.clone());
        let connections = Box::new(daemon.running.connections());
        let thread = thread::spawn(move || daemon.run().unwrap());
        until(|| node.lease.has_started());
        Front { address, connections, node, calls, thread: Some(thread), dir }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let mut stream = self.send(method, path, headers, body);
        let (line, headers) = head(&mut stream).unwrap();
        let chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
        let mut body = Vec::new();
        if chunked {
            while let Some(chunk) = chunk(&mut stream) {
                body.extend(chunk);
            }
        } else {
            let length = headers.iter().find(|(name, _)| name == "content-length").unwrap();
            stream.take(length.1.parse().unwrap()).read_to_end(&mut body).unwrap();
        }
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        Response { status, headers, body: String::from_utf8(body).unwrap() }
    }

    fn get(&self, path: &str) -> Response {
        self.ask("GET", path, "", "")
    }

    fn post(&self, path: &str, body: &str) -> Response {
        self.ask("POST", path, "Content-Type: application/json\r\n", body)
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let connection = if headers.contains("Connection:") { "" } else { "Connection: close\r\n" };
        let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let length =
            if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        write!(stream, "{method} {path} HTTP/1.1\r\n{host}{connection}{headers}{length}\r\n{body}").unwrap();
        BufReader::new(stream)
    }
}

#[derive(Debug)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The envelope, its request id checked and taken off.
    fn envelope(&self) -> Value {
        let mut envelope = self.json();
        let id = envelope.as_object_mut().unwrap().remove("request_id").unwrap();
        assert_eq!(Some(id.as_str().unwrap()), self.header("x-request-id"));
        envelope
    }
}

/// The first line, and the headers with names in lower case; `None` at the end of the stream.
fn head(reader: &mut impl BufRead) -> Option<(String, Vec<(String, String)>)> {
    let mut lines = reader.lines().map(Result::ok);
    let first = lines.next()??;
    let headers = lines.map_while(|line| line.filter(|line| !line.is_empty()));
    let pair =
        |line: String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_string()));
    Some((first, headers.filter_map(pair).collect()))
}

/// The next chunk of a chunked body; `None` at its end. Panics if the connection ends before that.
fn chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let length = usize::from_str_radix(line.trim(), 16).unwrap();
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk).unwrap();
    chunk.truncate(length);
    (length > 0).then_some(chunk)
}
