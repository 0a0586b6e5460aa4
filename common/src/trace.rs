//! One line an event on stderr: time, level, request id, words, and fields; as text or as JSON.
//!
//! Owns the form of a line and its bounds: whatever a text from outside holds, a line is one line, moves no cursor and has
//! an end; and no place in the code writes without end what callers make it write. Knows nothing of files or rotation:
//! launchd or the shell says where stderr goes.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::panic::Location;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::config::{Flag, Usage, Values, one_of};
use crate::time::Timestamp;

/// How much is told; a row of each program's table.
pub const LEVEL: Flag =
    Flag::variable("BAA_LOG", "LEVEL", "What stderr tells: error, warn, info or debug.").default("info");
/// In which form; a row of each program's table.
pub const FORMAT: Flag =
    Flag::new("--log-format", "BAA_LOG_FORMAT", "FORMAT", "Lines on stderr: text, or json, an object each.")
        .default("text");

/// The words of a line, or one value, as shown: room for an error that names two paths. The rest is cut off.
pub const MAX_TEXT_BYTES: usize = 2048;
/// Fields of a line; the code gives it a handful.
const MAX_FIELDS: usize = 6;
/// A whole line: its words, its fields with their names, and what stands before.
pub const MAX_LINE_BYTES: usize = 16 * 1024;
const _: () = assert!((1 + MAX_FIELDS) * (MAX_TEXT_BYTES + 64) + 512 < MAX_LINE_BYTES);

/// So many lines of one place in the code come at once: enough to see what happens.
const BURST: u32 = 20;
/// Then one in so long, which says how many were left out: half a megabyte a day if callers never cease. Nobody rotates
/// stderr. What a developer asks for (`debug`) has no such bound.
const REFILL: Duration = Duration::from_secs(30);

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something was lost or could not be done.
    Error,
    /// Something to look at in the morning.
    Warn,
    /// What the daemon did.
    Info,
    /// What a developer asks for.
    Debug,
}

impl Level {
    const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

#[derive(Clone, Copy)]
struct Settings {
    level: Level,
    json: bool,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

fn settings() -> Settings {
    SETTINGS.get().copied().unwrap_or(Settings { level: Level::Info, json: false })
}

/// Holds to what a program was told, from now on; only the first call counts.
///
/// # Errors
/// A wrong level or form.
pub(crate) fn set(values: &Values) -> Result<(), Usage> {
    let level = values.need(LEVEL.name, one_of(&Level::ALL.map(|level| (level.name(), level))))?;
    let json = values.need(FORMAT.name, one_of(&[("text", false), ("json", true)]))?;
    let _ = SETTINGS.set(Settings { level, json });
    Ok(())
}

/// Whether lines of this level are written: for fields that cost something.
pub fn is_on(level: Level) -> bool {
    level <= settings().level
}

/// Writes a line at `error`.
#[track_caller]
pub fn error(request_id: Option<&str>, message: fmt::Arguments<'_>) {
    write(Level::Error, request_id, message, &[]);
}

/// Writes a line at `warn`.
#[track_caller]
pub fn warn(request_id: Option<&str>, message: fmt::Arguments<'_>) {
    write(Level::Warn, request_id, message, &[]);
}

/// Writes a line at `info`.
#[track_caller]
pub fn info(request_id: Option<&str>, message: fmt::Arguments<'_>) {
    write(Level::Info, request_id, message, &[]);
}

/// Writes a line at `debug`.
#[track_caller]
pub fn debug(request_id: Option<&str>, message: fmt::Arguments<'_>) {
    write(Level::Debug, request_id, message, &[]);
}

/// Writes a line with fields: `name=value` in text, members of the object in JSON.
#[track_caller]
pub fn write(
    level: Level,
    request_id: Option<&str>,
    message: fmt::Arguments<'_>,
    fields: &[(&'static str, Value)],
) {
    static PLACES: LazyLock<Mutex<Places>> = LazyLock::new(Mutex::default);
    if !is_on(level) {
        return;
    }
    let mut fields = fields.to_vec();
    if level != Level::Debug {
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        match places.admit(Location::caller(), Instant::now()) {
            None => return,
            Some(0) => {}
            Some(left_out) => fields.push(("left_out", left_out.into())),
        }
    }
    let line =
        Line { at: Timestamp::now(), level, request_id, words: cut(&message.to_string()), fields: &fields };
    let text = if settings().json { line.json() } else { line.text() };
    // One write, so that lines of two threads do not mix. Nobody can be told that stderr is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The places in the code that have written; as many as there are calls in the program at the most.
#[derive(Default)]
struct Places(HashMap<(&'static str, u32, u32), Place>);

struct Place {
    lines: u32,
    since: Instant,
    left_out: u64,
}

impl Places {
    /// Whether a line of this place is written, and how many were left out before it.
    fn admit(&mut self, at: &'static Location<'static>, now: Instant) -> Option<u64> {
        let fresh = Place { lines: BURST, since: now, left_out: 0 };
        let place = self.0.entry((at.file(), at.line(), at.column())).or_insert(fresh);
        let refills = now.saturating_duration_since(place.since).as_millis() / REFILL.as_millis();
        let refills = u32::try_from(refills).unwrap_or(u32::MAX);
        if refills > 0 {
            place.lines = place.lines.saturating_add(refills).min(BURST);
            place.since = now;
        }
        match place.lines.checked_sub(1) {
            Some(lines) => {
                place.lines = lines;
                Some(std::mem::take(&mut place.left_out))
            }
            None => {
                place.left_out += 1;
                None
            }
        }
    }
}

struct Line<'a> {
    at: Timestamp,
    level: Level,
    request_id: Option<&'a str>,
    words: String,
    fields: &'a [(&'static str, Value)],
}

impl Line<'_> {
    fn text(&self) -> String {
        let mut line = format!("{} {:5} ", self.at, self.level.name());
        if let Some(id) = self.request_id {
            let _ = write!(line, "[{id}] ");
        }
        line.push_str(&visible(&self.words));
        for (name, value) in self.fields.iter().take(MAX_FIELDS) {
            let _ = write!(line, " {name}=");
            match value {
                Value::String(text) => line.push_str(&quoted(&cut(text))),
                other => line.push_str(&cut(&other.to_string())),
            }
        }
        line.push('\n');
        line
    }

    fn json(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        // JSON itself escapes what lies below a space alone. Nothing but texts holds any of these.
        if !line.chars().all(is_visible) {
            let escaped = |c: char| match is_visible(c) {
                true => c.to_string(),
                false => format!("\\u{:04x}", u32::from(c)),
            };
            line = line.chars().map(escaped).collect();
        }
        line.push('\n');
        line
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &self.at)?;
        map.serialize_entry("level", self.level.name())?;
        if let Some(id) = self.request_id {
            map.serialize_entry("requestId", id)?;
        }
        map.serialize_entry("message", &self.words)?;
        for (name, value) in self.fields.iter().take(MAX_FIELDS) {
            match value {
                Value::String(text) => map.serialize_entry(name, &cut(text))?,
                other => map.serialize_entry(name, other)?,
            }
        }
        map.end()
    }
}

/// Whether a character only ever shows itself: no control character (a line end, what steers a terminal), and none that
/// turns the direction of text or ends a line for some readers. All others have at most four hex digits.
fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text from outside on one line of a terminal, as it is where it can be: `\n`, `\u{1b}`.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_visible(c) {
            true => out.push(c),
            false => out.extend(c.escape_default()),
        }
    }
    out
}

/// A value that cannot be taken for more than one, or for another field.
fn quoted(text: &str) -> String {
    let plain = |c: char| is_visible(c) && !c.is_whitespace() && !matches!(c, '"' | '=' | '\\');
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("\"{}\"", visible(&text.replace('\\', "\\\\").replace('"', "\\\""))),
    }
}

/// As much of a text as is within [`MAX_TEXT_BYTES`] when it is escaped, in either form.
fn cut(text: &str) -> String {
    let mut left = MAX_TEXT_BYTES - '…'.len_utf8();
    let fits = |c: char| {
        let shown = match c {
            '"' | '\\' => 2,
            _ if is_visible(c) => c.len_utf8(),
            _ => r"\u{202e}".len(),
        };
        let room = left.checked_sub(shown);
        left = room.unwrap_or(left);
        room.is_some()
    };
    let mut fits = fits;
    match text.char_indices().find(|(_, c)| !fits(*c)) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line<'a>(id: Option<&'a str>, words: &str, fields: &'a [(&'static str, Value)]) -> Line<'a> {
        Line { at: Timestamp::from_millis(0), level: Level::Warn, request_id: id, words: cut(words), fields }
    }

    #[test]
    fn a_line_is_one_line_with_its_fields() {
        let fields = [("n", json!(2)), ("url", json!("http://[::1]:1")), ("why", json!("a \"b\\\" c=d\n"))];
        let with = line(Some("r-1"), "two\nlines", &fields);
        assert_eq!(
            with.text(),
            "1970-01-01T00:00:00.000Z warn  [r-1] two\\nlines n=2 url=http://[::1]:1 why=\"a \\\"b\\\\\\\" c=d\\n\"\n"
        );
        assert_eq!(
            with.json(),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"warn\",\"requestId\":\"r-1\",\"message\":\"two\\nlines\",\
             \"n\":2,\"url\":\"http://[::1]:1\",\"why\":\"a \\\"b\\\\\\\" c=d\\n\"}\n"
        );
        assert_eq!(
            line(None, "x", &[("empty", json!(""))]).text(),
            "1970-01-01T00:00:00.000Z warn  x empty=\"\"\n"
        );
        assert_eq!(
            line(None, "x", &[]).json(),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"warn\",\"message\":\"x\"}\n"
        );
    }

    /// Everything that steers a terminal, forges a line or a field, or turns text around.
    const HOSTILE: &str =
        "a\u{1b}[2J\u{9b}31m\r\nfake\u{7f}\u{0} \u{202e}txt\u{2066}\u{2028}\u{2029}\t\"}=x ü 漢 🦀";

    #[test]
    fn a_text_from_outside_steers_nothing_and_is_read_back() {
        let fields = [("value", json!(HOSTILE))];
        let line = line(None, HOSTILE, &fields);
        for text in [line.text(), line.json()] {
            let inner = text.strip_suffix('\n').unwrap();
            assert!(inner.chars().all(is_visible), "{inner:?}");
            assert!(inner.contains("ü 漢 🦀"), "{inner}");
        }
        let read: Value = serde_json::from_str(&line.json()).unwrap();
        assert_eq!((&read["message"], &read["value"]), (&json!(HOSTILE), &json!(HOSTILE)));
        assert_eq!(line.text().matches(" value=\"").count(), 1);
    }

    #[test]
    fn a_line_has_an_end_whatever_it_is_made_of() {
        for c in ['a', '\u{1}', '"', '\\', '\u{202e}', '漢', '🦀'] {
            let long = c.to_string().repeat(100_000);
            let fields = vec![("value", json!(long)); 50];
            let line = line(Some("r-1"), &long, &fields);
            for text in [line.text(), line.json()] {
                assert!(text.len() <= MAX_LINE_BYTES, "{c:?} {}", text.len());
                assert!(text.contains('…') && text.len() > MAX_TEXT_BYTES, "{c:?} {}", text.len());
            }
            assert!(serde_json::from_str::<Value>(&line.json()).is_ok(), "{c:?}");
        }
        let whole = "é".repeat(MAX_TEXT_BYTES / 2 - 2);
        assert_eq!(cut(&whole), whole);
    }

    #[test]
    fn a_place_that_never_ceases_is_thinned_out_and_says_so() {
        let mut places = Places::default();
        let (here, there) = (Location::caller(), Location::caller());
        let begun = Instant::now();
        for _ in 0..BURST {
            assert_eq!(places.admit(here, begun), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(places.admit(here, begun), None);
        }
        assert_eq!(places.admit(there, begun), Some(0), "others are not concerned");
        assert_eq!(places.admit(here, begun + REFILL), Some(1000));
        assert_eq!(places.admit(here, begun + REFILL), None);
        let quiet = begun + REFILL * 1000;
        assert_eq!(places.admit(here, quiet), Some(1));
        let burst = (1..).find(|_| places.admit(here, quiet).is_none());
        assert_eq!(burst, Some(BURST), "a quiet night does not add up");
    }
}
