use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::test::folder;

const SMALL: Limits = Limits { segment_bytes: 400, total_bytes: 1_200 };
const LARGE: Limits = Limits { segment_bytes: 1 << 30, total_bytes: 1 << 30 };

struct Fixture {
    dir: PathBuf,
    limits: Limits,
}

impl Fixture {
    fn new(limits: Limits) -> Fixture {
        Fixture { dir: folder("log"), limits }
    }

    /// Opens the log after a checkpoint at `after`; the numbers that were replayed come with it.
    fn open(&self, after: Seq) -> (Log, bool, Vec<Seq>) {
        let mut seen = Vec::new();
        let opened = Log::open(&self.dir, self.limits, after, |seq, line| {
            seen.push(seq);
            serde_json::from_str::<serde_json::Value>(line).map(drop).map_err(|error| error.to_string())
        })
        .unwrap();
        (opened.log, opened.fresh, seen)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn append(log: &mut Log, count: u64, filler: usize) {
    for _ in 0..count {
        let line = format!("{{\"seq\":{},\"x\":\"{}\"}}", log.next(), "é".repeat(filler));
        log.append(&line);
    }
}

fn read_all(feed: &Feed, after: Seq) -> (Vec<Seq>, Vec<(Seq, Seq)>) {
    let (mut cursor, mut seen, mut gaps) = (Cursor::after(after), Vec::new(), Vec::new());
    loop {
        match feed.read(&mut cursor, 100, |seq, _| seen.push(seq)).unwrap() {
            Got::Lines => {}
            Got::Gap { from, to } => gaps.push((from, to)),
            Got::Nothing | Got::Closed => return (seen, gaps),
        }
    }
}

#[test]
fn nothing_is_visible_before_its_commit() {
    let fixture = Fixture::new(LARGE);
    let (mut log, fresh, _) = fixture.open(0);
    assert!(fresh);
    append(&mut log, 3, 1);
    assert_eq!((log.feed().latest(), log.feed().oldest()), (0, 1));
    assert!(read_all(log.feed(), 0).0.is_empty());
    log.commit().unwrap();
    assert_eq!(read_all(log.feed(), 0).0, [1, 2, 3]);
    assert_eq!(read_all(log.feed(), 2).0, [3]);
}

#[test]
fn numbers_go_on_after_a_restart() {
    let fixture = Fixture::new(LARGE);
    let (mut log, ..) = fixture.open(0);
    append(&mut log, 3, 1);
    log.commit().unwrap();
    drop(log);
    let (log, fresh, seen) = fixture.open(1);
    assert_eq!((log.next(), fresh, seen), (4, false, vec![2, 3]));
}

#[test]
fn a_torn_end_is_cut_wherever_it_was_torn() {
    let whole = "{\"seq\":1,\"x\":\"\"}\n";
    let torn = "{\"seq\":2,\"x\":\"abc\"}\n";
    for size in 1..torn.len() {
        let fixture = Fixture::new(LARGE);
        fs::write(fixture.dir.join("events.jsonl"), format!("{whole}{}", &torn[..size])).unwrap();
        let (mut log, fresh, seen) = fixture.open(0);
        assert_eq!((log.next(), fresh, seen), (2, false, vec![1]), "{size}");
        append(&mut log, 1, 0);
        log.commit().unwrap();
        assert_eq!(read_all(log.feed(), 0).0, [1, 2], "{size}");
    }
    for size in 1..whole.len() {
        let fixture = Fixture::new(LARGE);
        fs::write(fixture.dir.join("events.jsonl"), &whole[..size]).unwrap();
        let (mut log, _, seen) = fixture.open(0);
        assert_eq!((log.next(), seen.len()), (1, 0), "{size}");
        append(&mut log, 1, 0);
        log.commit().unwrap();
        assert_eq!(read_all(log.feed(), 0).0, [1], "{size}");
    }
}

#[test]
fn a_last_line_that_does_not_parse_is_cut() {
    let fixture = Fixture::new(LARGE);
    fs::write(fixture.dir.join("events.jsonl"), "{\"seq\":1,\"x\":1}\n{\"seq\":2,\"x\n").unwrap();
    let (log, fresh, seen) = fixture.open(0);
    assert_eq!((log.next(), fresh, seen.first()), (2, false, Some(&1)));
    let kept = fixture.names().into_iter().find(|name| name.starts_with("events.jsonl.damaged-"));
    let kept = fs::read_to_string(fixture.dir.join(kept.unwrap())).unwrap();
    assert_eq!(kept, "{\"seq\":2,\"x\n", "it may have been acknowledged");
}

#[test]
fn damage_sets_the_files_aside_and_numbers_go_on() {
    let fixture = Fixture::new(LARGE);
    fs::write(fixture.dir.join("events.jsonl"), "{\"seq\":1,\"x\":1}\nrubbish\n{\"seq\":3,\"x\":1}\n")
        .unwrap();
    let (mut log, fresh, _) = fixture.open(0);
    assert_eq!((log.next(), fresh), (4, true), "3 may have been seen");
    assert!(fixture.names().iter().any(|name| name.starts_with("events.jsonl.damaged-")));
    append(&mut log, 1, 0);
    log.commit().unwrap();
    assert_eq!(read_all(log.feed(), 0), (vec![4], vec![(1, 3)]));
}

#[test]
fn damage_at_the_very_begin_is_not_taken_for_a_torn_line() {
    for filled in [0, 20] {
        let fixture = Fixture::new(SMALL);
        let (mut log, ..) = fixture.open(0);
        for _ in 0..filled + 2 {
            append(&mut log, 1, 30);
            log.commit().unwrap();
        }
        let latest = log.feed().latest();
        drop(log);
        let active = fixture.dir.join("events.jsonl");
        let mut bytes = fs::read(&active).unwrap();
        assert!(bytes.iter().filter(|&&byte| byte == b'\n').count() > 1, "more than a line is in it");
        bytes[0] = 0;
        fs::write(&active, &bytes).unwrap();
        let (log, fresh, _) = fixture.open(0);
        assert_eq!((log.next(), fresh), (latest + 1, true), "numbers go on, in another log");
        let kept =
            fixture.names().into_iter().find(|name| name.starts_with("events.jsonl.damaged-")).unwrap();
        assert_eq!(fs::read(fixture.dir.join(kept)).unwrap(), bytes, "nothing of it is lost");
    }
}

#[test]
fn a_removed_log_goes_on_after_the_checkpoint() {
    let fixture = Fixture::new(LARGE);
    let (mut log, ..) = fixture.open(0);
    append(&mut log, 9, 1);
    log.commit().unwrap();
    fs::remove_file(fixture.dir.join("events.jsonl")).unwrap();
    let (log, fresh, seen) = fixture.open(9);
    assert_eq!((log.next(), fresh, seen.len()), (10, true, 0));
}

#[test]
fn a_log_that_ends_before_its_checkpoint_is_damaged() {
    let fixture = Fixture::new(LARGE);
    let (mut log, ..) = fixture.open(0);
    append(&mut log, 5, 1);
    log.commit().unwrap();
    let (log, fresh, _) = fixture.open(8);
    assert_eq!((log.next(), fresh), (9, true));
}

#[test]
fn full_segments_rotate_and_the_oldest_go_once_covered() {
    let fixture = Fixture::new(SMALL);
    let (mut log, ..) = fixture.open(0);
    let mut closed = Vec::new();
    for _ in 0..30 {
        append(&mut log, 2, 20);
        closed.extend(log.commit().unwrap());
    }
    assert_eq!(closed, [8, 16, 24, 32, 40, 48, 56]);
    assert_eq!(read_all(log.feed(), 0), ((1..=60).collect(), vec![]), "nothing goes uncovered");
    log.forget_up_to(30);
    let oldest = log.feed().oldest();
    assert_eq!(oldest, 25, "what the checkpoint does not cover stays");
    assert_eq!(read_all(log.feed(), 0), ((oldest..=60).collect(), vec![(1, oldest - 1)]));
    log.forget_up_to(60);
    assert!(log.bytes() <= SMALL.total_bytes);
    let (log, fresh, seen) = fixture.open(60);
    assert_eq!((log.next(), fresh, seen.len()), (61, false, 0));
}

#[test]
fn a_log_that_is_taken_away_takes_no_more() {
    let meddle: [fn(&std::path::Path); 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::rename(path, path.with_extension("moved")).and_then(|()| fs::write(path, "")).unwrap(),
    ];
    for meddle in meddle {
        let fixture = Fixture::new(LARGE);
        let (mut log, ..) = fixture.open(0);
        append(&mut log, 1, 0);
        log.commit().unwrap();
        meddle(&fixture.dir.join("events.jsonl"));
        append(&mut log, 1, 0);
        assert!(matches!(log.commit(), Err(CommitError::Unknown(_))));
        assert_eq!(log.feed().latest(), 1, "and nobody was told");
    }
}

#[test]
fn a_reader_survives_rotation_and_deletion() {
    let fixture = Fixture::new(SMALL);
    let (mut log, ..) = fixture.open(0);
    append(&mut log, 6, 20);
    log.commit().unwrap();
    let (mut slow, mut seen) = (Cursor::after(0), Vec::new());
    log.feed().read(&mut slow, 1, |seq, _| seen.push(seq)).unwrap();
    for _ in 0..30 {
        append(&mut log, 2, 20);
        log.commit().unwrap();
    }
    log.forget_up_to(log.next() - 1);
    let mut gap = None;
    loop {
        match log.feed().read(&mut slow, 100, |seq, _| seen.push(seq)).unwrap() {
            Got::Lines => {}
            Got::Gap { from, to } => {
                assert_eq!(Some(&(from - 1)), seen.last(), "the open segment is read to its end first");
                gap = Some(to);
            }
            _ => break,
        }
    }
    assert_eq!(seen.last(), Some(&66));
    assert!(gap.is_some());
}

#[test]
fn every_position_is_found_among_long_and_short_lines() {
    let fixture = Fixture::new(Limits { segment_bytes: 2_000_000, total_bytes: 1 << 30 });
    let (mut log, ..) = fixture.open(0);
    for round in 0..200 {
        append(&mut log, 1, if round % 7 == 0 { 60_000 } else { round });
        log.commit().unwrap();
    }
    for seq in 0..200 {
        let (mut cursor, mut first) = (Cursor::after(seq), None);
        log.feed()
            .read(&mut cursor, 1, |seq, _| {
                first.get_or_insert(seq);
            })
            .unwrap();
        assert_eq!(first, Some(seq + 1));
    }
    let mut found = Vec::new();
    log.feed().lines(&[0, 1, 2, 50, 199, 200, 201], |line| found.extend(seq_of(line.as_bytes()))).unwrap();
    assert_eq!(found, [1, 2, 50, 199, 200]);
}

#[test]
fn a_position_beyond_the_log_is_a_gap() {
    let fixture = Fixture::new(LARGE);
    let (mut log, ..) = fixture.open(0);
    append(&mut log, 2, 0);
    log.commit().unwrap();
    let mut cursor = Cursor::after(7);
    let got = log.feed().read(&mut cursor, 100, |_, _| panic!("no line")).unwrap();
    assert_eq!((got, cursor.seq), (Got::Gap { from: 3, to: 7 }, 2));
}

#[test]
fn a_rejected_commit_leaves_nothing_behind() {
    let fixture = Fixture::new(LARGE);
    let (mut log, ..) = fixture.open(0);
    append(&mut log, 2, 0);
    log.commit().unwrap();
    // A file that cannot be written stands in for a disk that is full.
    let good = log.out.replace(File::open(fixture.dir.join("events.jsonl")).unwrap());
    append(&mut log, 3, 0);
    // Nor can it be cut back, which is the harder of the two errors.
    assert!(matches!(log.commit(), Err(CommitError::Unknown(_))));
    assert_eq!(log.next(), 3);
    log.out = good;
    append(&mut log, 1, 0);
    log.commit().unwrap();
    assert_eq!(read_all(log.feed(), 0).0, [1, 2, 3]);
}

#[test]
fn a_sleeper_wakes_for_a_commit_and_for_the_end() {
    let fixture = Fixture::new(LARGE);
    let (mut log, ..) = fixture.open(0);
    let feed = log.feed().clone();
    let reader = std::thread::spawn(move || {
        let (mut cursor, mut seen) = (Cursor::after(0), Vec::new());
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match feed.read(&mut cursor, 1000, |seq, _| seen.push(seq)).unwrap() {
                Got::Closed => return (seen, Instant::now() < until),
                Got::Nothing => feed.sleep(cursor.seq, until),
                _ => {}
            }
        }
    });
    for _ in 0..100 {
        append(&mut log, 1, 0);
        log.commit().unwrap();
    }
    log.feed().close();
    assert_eq!(reader.join().unwrap(), ((1..=100).collect(), true));
}

#[test]
fn a_segment_that_cannot_be_closed_grows_until_it_can() {
    let fixture = Fixture::new(SMALL);
    let (mut log, ..) = fixture.open(0);
    let in_the_way = fixture.dir.join(recovery::NEW);
    fs::create_dir(&in_the_way).unwrap();
    for _ in 0..10 {
        append(&mut log, 2, 20);
        assert_eq!(log.commit().unwrap(), None);
    }
    assert_eq!(read_all(log.feed(), 0).0, (1..=20).collect::<Vec<_>>());
    fs::remove_dir(in_the_way).unwrap();
    append(&mut log, 1, 20);
    assert_eq!(log.commit().unwrap(), Some(21));
    append(&mut log, 1, 20);
    log.commit().unwrap();
    assert_eq!(read_all(log.feed(), 0).0, (1..=22).collect::<Vec<_>>());
    assert_eq!(fixture.names(), ["events-00000000000000000001.jsonl", "events.jsonl"]);
}

#[test]
fn a_rotation_that_was_cut_off_is_completed() {
    let fixture = Fixture::new(LARGE);
    let (mut log, ..) = fixture.open(0);
    append(&mut log, 3, 0);
    log.commit().unwrap();
    drop(log);
    fs::rename(fixture.dir.join("events.jsonl"), fixture.dir.join(recovery::full_name(1))).unwrap();
    File::create(fixture.dir.join("events.jsonl.new")).unwrap().write_all(b"").unwrap();
    let (mut log, fresh, seen) = fixture.open(0);
    assert_eq!((log.next(), fresh, seen.len()), (4, false, 3));
    append(&mut log, 1, 0);
    log.commit().unwrap();
    assert_eq!(read_all(log.feed(), 0).0, [1, 2, 3, 4]);
    assert_eq!(fixture.names(), ["events-00000000000000000001.jsonl", "events.jsonl"]);
}
