use std::path::PathBuf;
use std::thread;

use common::log::{Limits, Log};

use super::*;

/// A log of its own, gone with the test.
struct Fixture {
    log: Log,
    folder: PathBuf,
}

impl Fixture {
    /// The log counts as `total_bytes` large at the most, in segments of a MiB.
    fn new(total_bytes: u64) -> Fixture {
        let folder = std::env::temp_dir().join(format!("codexd-page-{}", common::random_id().unwrap()));
        std::fs::create_dir_all(&folder).unwrap();
        let limits = Limits { segment_bytes: 1024 * 1024, total_bytes };
        let log = Log::open(&folder, limits, 0, |_, _| Ok(())).unwrap().log;
        Fixture { log, folder }
    }

    /// Commits events of these types, each with this value in its detail.
    fn append<'a>(&mut self, kinds: impl IntoIterator<Item = &'a str>, value: &Value) {
        for kind in kinds {
            let seq = self.log.next();
            self.log.append(&format!(r#"{{"seq":{seq},"type":"{kind}","detail":{{"value":{value}}}}}"#));
        }
        if let Some(seq) = self.log.commit().unwrap() {
            self.log.forget_up_to(seq);
        }
    }

    /// A page at once: the numbers of its events, where it got, and the gap it told of.
    fn page(&self, after: Seq, kind: &str, limit: usize) -> (Vec<Seq>, Seq, Option<(Seq, Seq)>) {
        let mut page = Page::new(after, filter(kind), limit);
        page.read_on(self.log.feed(), &mut Cursor::after(after), None, || false).unwrap();
        let shown = page.show(self.log.feed()).unwrap();
        let seqs = shown["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap());
        (seqs.collect(), shown["nextAfter"].as_u64().unwrap(), page.gap)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn filter(kind: &str) -> Filter {
    if kind.is_empty() { Filter::default() } else { Filter::of_type(kind).unwrap() }
}

#[test]
fn a_page_ends_at_its_limit_or_at_the_end_and_says_where_it_got() {
    let mut fixture = Fixture::new(u64::MAX);
    assert_eq!(fixture.page(0, "", 10), (vec![], 0, None));
    fixture.append(["a.x", "b", "b", "a.y", "b"], &json!(1));
    for (after, kind, limit, seqs, reached) in [
        (0, "", 10, &[1, 2, 3, 4, 5][..], 5),
        (0, "", 5, &[1, 2, 3, 4, 5], 5),
        (0, "", 2, &[1, 2], 2),
        (2, "", 2, &[3, 4], 4),
        (5, "", 2, &[], 5),
        (0, "a.*", 10, &[1, 4], 5), // what does not match is behind it, too
        (0, "a.*", 1, &[1], 1),
        (1, "a.*", 1, &[4], 4),
        (4, "a.*", 1, &[], 5),
        (0, "c", 10, &[], 5),
    ] {
        assert_eq!(
            fixture.page(after, kind, limit),
            (seqs.to_vec(), reached, None),
            "{after} {kind} {limit}"
        );
    }
}

#[test]
fn what_cannot_be_had_is_a_gap_at_the_beginning() {
    let mut fixture = Fixture::new(2 * 1024 * 1024);
    fixture.append(["a", "a"], &json!(1));
    assert_eq!(fixture.page(9, "", 10), (vec![], 2, Some((3, 9))), "beyond the log");
    let filler = json!("x".repeat(100_000));
    while fixture.log.feed().oldest() == 1 {
        fixture.append(["b"; 5], &filler);
    }
    let (oldest, latest) = (fixture.log.feed().oldest(), fixture.log.feed().latest());
    let (seqs, reached, gap) = fixture.page(1, "", 2);
    assert_eq!((seqs, reached, gap), (vec![oldest, oldest + 1], oldest + 1, Some((2, oldest - 1))));
    assert_eq!(fixture.page(1, "a", 2), (vec![], latest, Some((2, oldest - 1))), "told whatever is wanted");
}

#[test]
fn a_gap_in_the_middle_is_told_by_the_next_page() {
    let mut fixture = Fixture::new(2 * 1024 * 1024);
    fixture.append(["a"], &json!(1));
    let (mut page, mut cursor) = (Page::new(0, filter("b"), 10), Cursor::after(0));
    page.read_on(fixture.log.feed(), &mut cursor, None, || false).unwrap();
    let filler = json!("x".repeat(100_000));
    while fixture.log.feed().oldest() < 30 {
        fixture.append(["c"; 5], &filler);
    }
    let until = Instant::now() + Duration::from_secs(20);
    page.read_on(fixture.log.feed(), &mut cursor, Some(until), || false).unwrap();
    let oldest = fixture.log.feed().oldest();
    assert_eq!((page.gap, page.lines.len()), (None, 0));
    assert!(page.reached < oldest - 1, "{} {oldest}", page.reached);
    assert_eq!(fixture.page(page.reached, "b", 10).2, Some((page.reached + 1, oldest - 1)));
}

#[test]
fn a_page_is_bounded_in_bytes_and_one_large_event_goes_alone() {
    let mut fixture = Fixture::new(u64::MAX);
    let (small, large) = (json!("x".repeat(1024 * 1024)), json!("x".repeat(MAX_PAGE_BYTES + 1)));
    fixture.append(["a"; 6], &small);
    fixture.append(["a"; 2], &large);
    fixture.append(["a"], &small);
    let mut pages = Vec::new();
    let mut after = 0;
    while after < 9 {
        let (seqs, reached, _) = fixture.page(after, "", 1000);
        after = reached;
        pages.push(seqs);
    }
    assert_eq!(pages, [vec![1, 2, 3], vec![4, 5, 6], vec![7], vec![8], vec![9]]);
}

#[test]
fn what_is_shown_is_never_larger_than_was_counted() {
    let deep = |levels: usize| (0..levels).fold(json!([1, 2]), |inner, _| json!([inner, {"a": 1}, []]));
    for value in [json!(1), json!({}), json!({"a": {"b": [1, 2, {"c": "d,[{\"e"}]}}), deep(30), deep(60)] {
        let line = json!({"seq": 1, "detail": value}).to_string();
        let envelope = |events: Value| json!({"ok": true, "data": {"events": events}, "requestId": "r"});
        let text = |events| serde_json::to_string_pretty(&envelope(events)).unwrap().len();
        let event: Value = serde_json::from_str(&line).unwrap();
        let shown = text(json!([event, event])) - text(json!([event]));
        assert!(shown <= shown_bytes(&line), "{shown} of {line}");
    }
}

#[test]
fn a_search_for_what_is_rare_takes_several_pages() {
    let mut fixture = Fixture::new(u64::MAX);
    let filler = json!("x".repeat(1024 * 1024));
    (0..MAX_SCAN_BYTES / (1024 * 1024) + 8).for_each(|_| fixture.append(["b"], &filler));
    fixture.append(["a"], &json!(1));
    let latest = fixture.log.feed().latest();
    let (seqs, reached, _) = fixture.page(0, "a", 10);
    assert!(seqs.is_empty() && reached < latest - 5, "{reached} of {latest}");
    assert_eq!(fixture.page(reached, "a", 10), (vec![latest], latest, None));

    // Who waits for it waits for the search too, and takes what is found at once.
    let (mut page, mut cursor) = (Page::new(0, filter("a"), 10), Cursor::after(0));
    let until = Instant::now() + Duration::from_secs(60);
    page.read_on(fixture.log.feed(), &mut cursor, Some(until), || false).unwrap();
    assert_eq!((page.lines.len(), page.reached), (1, latest));
}

#[test]
fn a_wait_ends_with_the_first_match_the_time_the_log_or_the_client() {
    let mut fixture = Fixture::new(u64::MAX);
    let feed = fixture.log.feed().clone();
    let wait = |after: Seq, time: Duration, gone: bool| {
        let feed = feed.clone();
        thread::spawn(move || {
            let (mut page, start) = (Page::new(after, filter("a"), 10), Instant::now());
            page.read_on(&feed, &mut Cursor::after(after), Some(start + time), || gone).unwrap();
            (page.lines.len(), page.reached, start.elapsed())
        })
    };
    let long = Duration::from_secs(60);
    let (count, _, took) = wait(0, Duration::from_millis(50), false).join().unwrap();
    assert!(count == 0 && took >= Duration::from_millis(50) && took < long / 2, "{took:?}");

    let (count, _, took) = wait(0, long, true).join().unwrap();
    assert!(count == 0 && took >= LOOK_EVERY && took < long / 2, "{took:?}");

    let waiting = wait(0, long, false);
    thread::sleep(Duration::from_millis(50));
    fixture.append(["b"], &json!(1));
    thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished(), "nothing for it");
    fixture.append(["b", "a", "b"], &json!(1));
    let (count, reached, took) = waiting.join().unwrap();
    assert!(count == 1 && reached == 4 && took < long / 2, "{count} {reached} {took:?}");

    let waiting = wait(4, long, false);
    thread::sleep(Duration::from_millis(50));
    feed.close();
    let (count, reached, took) = waiting.join().unwrap();
    assert!(count == 0 && reached == 4 && took < long / 2, "{took:?}");
}
