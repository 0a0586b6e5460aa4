//! What is read back.

use super::*;

/// A page in few words, a line a turn.
fn words(page: &Page) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let list = |turn: &Value, key: &str, of: &dyn Fn(&Value) -> String| {
        turn[key].as_array().unwrap().iter().map(of).collect::<Vec<_>>().join("|")
    };
    let of = |turn: &Value| {
        let input = list(turn, "input", &|input| {
            format!("{}{}", if input["steered"] == true { ">" } else { "" }, text(&input["items"][0]["text"]))
        });
        let command = |command: &Value| {
            let (status, reason) = (text(&command["status"]), text(&command["reason"]));
            format!(
                "{} {status} {} {} {reason}",
                text(&command["command"]),
                command["exitCode"],
                text(&command["output"])
            )
        };
        let change = |change: &Value| {
            format!("{} {} {}", text(&change["path"]), text(&change["kind"]), text(&change["status"]))
        };
        let parts = [
            format!("{} {}", text(&turn["turnId"]), text(&turn["status"])),
            input,
            text(&turn["text"]),
            list(turn, "messages", &|message| text(&message["text"])),
            list(turn, "commands", &command),
            list(turn, "fileChanges", &change),
            list(turn, "others", &|other| text(&other["item"]["query"])),
            text(&turn["usage"]["total"]),
            text(&turn["error"]),
        ];
        parts.join("; ")
    };
    page.turns.iter().map(of).collect()
}

#[test]
fn turns_are_told_as_a_person_reads_them() {
    let check = |script: &str, expected: &[&str]| {
        let state = state_dir();
        let mut writer = Writer::new(&state);
        writer.script("session-a-1", script);
        assert_eq!(words(&writer.page("session-a-1", None, 100)), expected, "{script}");
        fs::remove_dir_all(state).unwrap();
    };
    check(
        "ask hello there; accept u; begin u; you u m hello there; say u m first; run u c ls; cost u 5; ran u c ls; \
         steer u more; you u n more; search u w what; say u m2 the last words; cost u 9; done u; cost u 7",
        &[
            "u completed; hello there|>more; the last words; first|the last words; ls completed 0 out -; ; what; 9; -",
        ],
    );
    check(
        "ask x; refuse -; ask y; accept u; begin u; fail u broken",
        &["u failed; y ; -; ; ; ; ; -; broken"],
    );
    check("ask x; begin u; accept u; stop u by hand; halt u", &["u interrupted; x ; -; ; ; ; ; -; by hand"]);
    check("ask x; cutoff - codexd ended", &["- interrupted; x ; -; ; ; ; ; -; codexd ended"]);
    check("ask x; done u; accept u", &["u completed; x ; -; ; ; ; ; -; -"]);
    check("ask x; accept u; settle u", &["u completed; x ; -; ; ; ; ; -; -"]);
    check("ask x", &["- requested; x ; -; ; ; ; ; -; -"]);
    check(
        "ask x; accept u; begin u; run u c sleep 9; patch u p /f; close u c; close u p; cutoff u it ended",
        &["u interrupted; x ; -; ; sleep 9 closed null - gone; /f add closed; ; -; it ended"],
    );
    // A command may outlive its turn; and a turn that the child began by itself has its words from the child.
    check(
        "ask x; accept u; begin u; run u c serve; done u; begin v; you v m press; patch v p /g; patched v p /g; done v; \
         ran u c serve; ran old c lost; done old",
        &[
            "u completed; x ; -; ; serve completed 0 out -; ; ; -; -",
            "v completed; press; -; ; ; /g add completed; ; -; -",
        ],
    );
}

#[test]
fn pages_hold_every_turn_once_however_they_are_cut() {
    let state = state_dir();
    let mut writer = Writer::new(&state);
    for n in 0..57 {
        writer.script("session-a-1", &format!("ask turn {n}; accept u{n}; begin u{n}; run u{n} c{n} cmd"));
        if n % 10 == 3 {
            writer.script("session-a-1", "ask nothing; refuse -"); // which is no turn
        }
        if n % 7 == 5 {
            writer.script("session-a-1", &format!("begin self{n}; done self{n}"));
        }
        writer.script("session-a-1", &format!("say u{n} m words {n}; done u{n}"));
    }
    for n in 0..57 {
        writer.script("session-a-1", &format!("ran u{n} c{n} cmd")); // late, all of them
    }
    let all = words(&writer.page("session-a-1", None, 1000));
    assert_eq!(all.len(), 57 + 8);
    assert!(
        all.iter().all(|turn| turn.starts_with("self") || turn.contains("cmd completed 0 out")),
        "{all:#?}"
    );
    for limit in [1, 2, 7, 20, 64, 65, 66] {
        let (mut found, mut before, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = writer.page("session-a-1", before, limit);
            assert!(page.turns.len() <= limit);
            found.splice(0..0, words(&page));
            pages += 1;
            assert!(pages < 100, "a page of {limit} leads nowhere");
            match page.next_cursor {
                Some(next) => assert!(before.replace(next).is_none_or(|before| next < before)),
                None => break,
            }
        }
        assert_eq!(found, all, "{limit}");
    }
    let from = writer.lines[writer.lines.len() / 2].0.seq;
    let page = writer.keeper.shared().page("session-a-1", from, None, 1000).unwrap();
    assert!(page.turns.len() < 40 && page.next_cursor.is_none(), "what was before has gone");
    assert_eq!(words(&writer.page("session-none-2", None, 10)), [""; 0]);
}

#[test]
fn a_page_is_bounded_and_what_was_cut_is_whole() {
    const MIB: usize = 1024 * 1024;
    let state = state_dir();
    let mut writer = Writer::new(&state);
    let session = "session-a-1";
    for n in 0..3 {
        writer.script(
            session,
            &format!("ask x; accept u{n}; begin u{n}; big u{n} {n} {}; done u{n}", 12 * MIB),
        );
    }
    let page = writer.page(session, None, 100);
    let text = |turn: &Value| (turn["text"].as_str().unwrap().len() / MIB, turn["truncated"] == true);
    let seen: Vec<_> = page.turns.iter().map(text).collect();
    assert_eq!(
        seen,
        [(0, true), (0, true), (12, false)],
        "the newest is whole, for the others there is no room"
    );
    let one = writer.page(session, page.turns.get(2).map(|_| writer.lines[10].0.seq), 1);
    assert_eq!(text(&one.turns[0]), (12, false), "on a page of its own each is");
    // As many turns as have room as they are, and no more.
    for n in 0..80 {
        writer
            .script("session-a-2", &format!("ask x; accept v{n}; begin v{n}; big v{n} x 250000; done v{n}"));
    }
    let page = writer.page("session-a-2", None, 100);
    assert!((50..60).contains(&page.turns.len()), "{}", page.turns.len());
    assert!(page.turns.iter().all(|turn| turn["messages"][0]["truncated"] == false));
    // A turn that is larger than a page by far, with its last words; none of its lines is cut.
    writer.script(session, "ask much; accept v; begin v");
    for n in 0..200 {
        writer.put(session, &format!("big v {} 250000", n % 10));
    }
    writer.script(session, "say v m done at last; done v; ask next; accept w; begin w; say w m next; done w");
    let page = writer.page(session, None, 100);
    let bytes = serde_json::to_vec_pretty(&page.turns).unwrap().len();
    assert!(bytes <= 32 * MIB, "{bytes}");
    assert_eq!((page.turns.len(), page.turns[0]["text"].as_str()), (1, Some("next")));
    let page = writer.page(session, page.next_cursor, 1);
    let bytes = serde_json::to_vec_pretty(&page.turns).unwrap().len();
    assert!(bytes > 10 * MIB && bytes <= 32 * MIB, "{bytes}");
    assert_eq!(page.turns[0]["text"], "done at last");
    let messages = page.turns[0]["messages"].as_array().unwrap();
    assert_eq!(messages.len() + page.turns[0]["omitted"].as_u64().unwrap() as usize, 201);
    assert!(messages[0]["truncated"] == false && messages[150]["truncated"] == true);
}

#[test]
fn one_turn_is_found_soon_in_a_large_transcript_and_in_the_log() {
    let state = state_dir();
    let mut writer = Writer::new(&state);
    let session = "session-a-1";
    let mut begins = Vec::new();
    for n in 0..500 {
        writer.put(session, "ask x");
        begins.push(writer.put(session, &format!("accept u{n}")));
        let text = if n == 250 { 2_000_000 } else { 100_000 };
        writer.script(
            session,
            &format!("begin u{n}; say u{n} m no; big u{n} {} {text}; cost u{n} {n}; done u{n}", n % 10),
        );
    }
    let started = std::time::Instant::now();
    let find = |n: usize| writer.keeper.shared().turn(session, &format!("u{n}"), begins[n]).unwrap().unwrap();
    let (early, whole, late) = (find(3), find(250), find(497));
    let took = started.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    let seen = |turn: &Value| {
        (turn["text"].as_str().unwrap().len(), turn["usage"]["total"].clone(), turn["truncated"].clone())
    };
    assert_eq!(seen(&early), (100_000, json!("3"), json!(false)));
    assert_eq!(seen(&whole), (2_000_000, json!("250"), json!(false)));
    assert_eq!((late["status"].as_str(), late["turnId"].as_str()), (Some("completed"), Some("u497")));
    assert_eq!(writer.keeper.shared().turn(session, "u3", begins[4]).unwrap(), None);

    let limits = Limits { segment_bytes: 8 << 20, total_bytes: 1 << 30 };
    let mut log = Log::open(&state, limits, 0, |_, _| Ok(())).unwrap().log;
    for (_, line) in &writer.lines {
        log.append(line);
        log.commit().unwrap();
    }
    let of_log = |id: &str| writer.keeper.shared().turn_of_log(log.feed(), id).unwrap();
    assert_eq!(of_log("u250"), Some((session.to_owned(), whole)));
    assert_eq!(of_log("u3"), Some((session.to_owned(), early)));
    assert_eq!(of_log("none"), None);
    fs::remove_dir_all(state).unwrap();
}
