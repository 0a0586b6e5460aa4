//! Events as pages, and by type: what a client sees that asks again and again.

use std::any::Any;
use std::thread;
use std::time::{Duration, Instant};

use e2e::codex::Codex;
use e2e::figures::print;
use e2e::http::{Events, get, send_only};
use e2e::node::{Node, conductor};
use e2e::process::Daemon;
use e2e::reader::seq;
use e2e::wait::{SOON, eventually};
use e2e::websocket::{Got, Socket};
use serde_json::{Value, json};

/// Readers at once that codexd takes.
const READERS: usize = 64;
/// A client that has left may hold what it had for so long: codexd and conductor each look every 2 s.
const NOTICED: Duration = Duration::from_secs(10);

/// A node, and the URLs of its events at codexd and at conductor.
struct Bench {
    node: Node,
    _conductor: Daemon,
    urls: [String; 2],
}

impl Bench {
    fn new() -> Bench {
        let node = Node::start(&Codex::Fake, &[]);
        let conductor = conductor(&node.dir, node.codexd.url());
        let urls = [node.url("/v1/codexd/events"), format!("{}/v1/codex/events", conductor.url())];
        Bench { node, _conductor: conductor, urls }
    }
}

#[track_caller]
fn page(url: &str, query: &str) -> Value {
    get(&format!("{url}{query}")).data(200)
}

fn seqs(page: &Value) -> Vec<u64> {
    page["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[test]
fn pages_tell_what_the_log_holds() {
    let bench = Bench::new();
    let session = bench.node.session(json!({}));
    bench.node.turn(&session, "[[items 300 100]]");
    let lines = bench.node.lines();
    let latest = lines.len() as u64;
    for url in &bench.urls {
        let first = page(url, "");
        assert_eq!((first["oldestSeq"].as_u64(), first["latestSeq"].as_u64()), (Some(1), Some(latest)));
        assert_eq!((first["logId"].as_str().unwrap().len(), &first["gap"]), (32, &Value::Null));
        assert_eq!((seqs(&first), &first["nextAfter"]), ((1..=100).collect(), &json!(100)));

        let (mut after, mut all) = (0, Vec::new());
        while after < latest {
            let page = page(url, &format!("?after={after}&limit=77"));
            all.extend(page["events"].as_array().unwrap().clone());
            after = page["nextAfter"].as_u64().unwrap();
        }
        let written: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(all, written, "line for line");

        let beyond = page(url, "?after=900000");
        assert_eq!(beyond["gap"], json!({"fromSeq": latest + 1, "toSeq": 900_000}));
        assert_eq!((seqs(&beyond), &beyond["nextAfter"]), (vec![], &json!(latest)));

        assert_eq!(seqs(&page(url, "?limit=1000")).len(), 1000.min(lines.len()));
        for (query, field) in [
            ("limit=1001", "limit"),
            ("limit=0", "limit"),
            ("after=-1", "after"),
            ("after=x", "after"),
            ("waitMs=600001", "waitMs"),
            ("type=", "type"),
            ("type=tu*n", "type"),
        ] {
            let refused = get(&format!("{url}?{query}")).failure(400, "invalid_request");
            let details = &refused["details"];
            let details = details.get("upstream_details").unwrap_or(details);
            assert_eq!(details["field"], field, "{query}");
        }
    }
}

#[test]
fn one_type_is_told_in_every_form_alone() {
    let bench = Bench::new();
    let (one, other) = (bench.node.session(json!({})), bench.node.session(json!({})));
    let begun = bench.node.latest();
    let open = |query: &str| -> Vec<(Socket, Events)> {
        let of = |url: &String| {
            let url = format!("{url}?{query}");
            (Socket::connect(&url, &[]).unwrap(), Events::open("GET", &url, &[], b""))
        };
        bench.urls.iter().map(of).collect()
    };
    let queries = ["type=turn.accepted", "type=app-server.item.*", "type=turn.*"];
    let mut live: Vec<_> = queries.iter().map(|query| (query, open(query))).collect();
    let mut of_one = open(&format!("after=0&type=app-server.turn.completed&sessionId={one}"));
    for session in [&one, &other] {
        bench.node.turn(session, "[[say turn.accepted]]");
    }
    let events: Vec<Value> =
        bench.node.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_type = |query: &str, event: &Value| {
        let (wanted, kind) = (query.strip_prefix("type=").unwrap(), event["type"].as_str().unwrap());
        wanted.strip_suffix('*').map_or(wanted == kind, |prefix| kind.starts_with(prefix))
    };
    for (query, readers) in &mut live {
        let expected: Vec<_> = events.iter().filter(|event| of_type(query, event)).cloned().collect();
        assert!(expected.len() >= 2, "{query}: {expected:?}");
        for url in &bench.urls {
            assert_eq!(page(url, &format!("?{query}"))["events"], json!(expected), "{query}");
        }
        for (socket, stream) in readers {
            assert_eq!(socket.text(SOON)["type"], "stream.hello");
            assert_eq!(stream.next_data().unwrap().json()["type"], "stream.hello");
            for event in expected.iter().filter(|event| event["seq"].as_u64() > Some(begun)) {
                assert_eq!(socket.text(SOON), *event, "{query}");
                assert_eq!(stream.next_data().unwrap().json(), *event, "{query}");
            }
            assert_eq!(socket.next(Duration::from_millis(50)), Got::Nothing, "{query}");
        }
    }
    for (socket, _) in &mut of_one {
        socket.text(SOON);
        assert_eq!(socket.text(SOON)["detail"]["sessionId"], one.as_str());
        assert_eq!(socket.next(Duration::from_millis(50)), Got::Nothing);
    }
}

#[test]
fn a_page_waits_for_a_first_event_and_no_longer() {
    let bench = Bench::new();
    let session = bench.node.session(json!({}));
    bench.node.ready();
    let latest = bench.node.latest();
    for url in &bench.urls {
        let start = Instant::now();
        let empty = page(url, &format!("?after={latest}&waitMs=300"));
        assert_eq!((seqs(&empty), &empty["nextAfter"]), (vec![], &json!(latest)));
        assert!((Duration::from_millis(300)..SOON).contains(&start.elapsed()), "{:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(seqs(&page(url, "?after=0&limit=1&waitMs=600000")), [1], "what is there is told at once");
        assert_eq!(page(url, "?after=900000&waitMs=600000")["gap"]["toSeq"], 900_000, "and a gap");
        assert!(start.elapsed() < SOON);
    }
    let query = format!("?after={latest}&type=app-server.turn.completed&waitMs=600000");
    thread::scope(|scope| {
        let waiting: Vec<_> = bench.urls.iter().map(|url| scope.spawn(|| page(url, &query))).collect();
        thread::sleep(Duration::from_millis(200));
        assert!(waiting.iter().all(|page| !page.is_finished()));
        bench.node.turn(&session, "[[say done]]");
        for page in waiting {
            let page = page.join().unwrap();
            assert_eq!(page["events"][0]["type"], "app-server.turn.completed");
            assert_eq!(seqs(&page).len(), 1);
        }
    });
}

#[test]
fn a_page_that_waits_is_answered_when_codexd_stops() {
    let mut bench = Bench::new();
    bench.node.ready();
    let latest = bench.node.latest();
    let query = format!("?after={latest}&type=nothing&waitMs=600000");
    let urls = bench.urls.clone();
    let waiting: Vec<_> = urls.iter().map(|url| format!("{url}{query}")).collect();
    let waiting: Vec<_> = waiting.into_iter().map(|url| thread::spawn(move || get(&url).data(200))).collect();
    thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    bench.node.codexd.terminate(SOON);
    for page in waiting {
        let page = page.join().unwrap();
        assert_eq!((seqs(&page), page["nextAfter"].as_u64() > Some(latest)), (vec![], true), "{page}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn clients_that_have_left_hold_no_seat() {
    let bench = Bench::new();
    bench.node.ready();
    for url in &bench.urls {
        for form in ["sse", "page", "websocket"] {
            let asked = format!("{url}?type=nothing");
            let sse = || Events::open("GET", &asked, &[], b"");
            let socket = || Socket::connect(&asked, &[]);
            let one = || -> Box<dyn Any> {
                match form {
                    "sse" => Box::new(sse()),
                    "page" => Box::new(send_only(&format!("{asked}&waitMs=600000"))),
                    _ => Box::new(socket()),
                }
            };
            let mut crowd: Vec<_> = (0..READERS).map(|_| one()).collect();
            // Who looks whether there is a seat has it for a moment, and one of the crowd is refused.
            let full = || {
                (0..3).all(|_| {
                    thread::sleep(Duration::from_millis(100));
                    socket().is_err()
                })
            };
            eventually("all seats taken", SOON, || {
                crowd.push(one());
                full().then_some(())
            });
            let refused = get(&format!("{asked}&waitMs=1000"));
            refused.failure(503, "overloaded");
            assert!(refused.header("retry-after").is_some(), "{:?}", refused.headers);
            assert_eq!(sse().status, 503);
            assert_eq!(seqs(&page(url, "?limit=1")), [1], "who does not wait needs no seat");
            drop(crowd);
            let start = Instant::now();
            let all: Vec<_> = (0..READERS).map(|_| eventually("a seat", NOTICED, || socket().ok())).collect();
            print(&format!(
                "{READERS} {form} clients that left {url}: all seats after {:.1?}",
                start.elapsed()
            ));
            drop(all);
            eventually("none left", NOTICED, || {
                (bench.node.status()["service"]["websocketClients"] == 0).then_some(())
            });
        }
    }
}

#[test]
fn a_search_through_a_long_log_goes_on_where_it_got() {
    let node = Node::start(&Codex::Fake, &[]);
    let session = node.session(json!({}));
    node.say(&session, "[[items 100000 1000]]");
    let url = node.url("/v1/codexd/events");
    let end = page(&url, "?type=app-server.turn.completed&waitMs=240000")["events"][0]["seq"].clone();
    let (mut after, mut pages, start) = (0, 0, Instant::now());
    let found = loop {
        let page = page(&url, &format!("?after={after}&type=app-server.turn.completed"));
        let next = page["nextAfter"].as_u64().unwrap();
        pages += 1;
        assert!(next > after, "it gets on");
        after = next;
        if let Some(event) = page["events"].get(0) {
            break event.clone();
        }
    };
    assert_eq!(found["seq"], end);
    assert!(pages > 1, "{pages}");
    let bytes: usize = node.lines().iter().map(|line| line.len()).sum();
    print(&format!(
        "one event of {} found among {} MB in {pages} pages and {:.1?}",
        seq(node.lines().last().unwrap()),
        bytes / 1_000_000,
        start.elapsed()
    ));
}
