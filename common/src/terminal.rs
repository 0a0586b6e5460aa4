//! What people see: text of strangers that can do a terminal no harm, colours where they are wanted, lines that fit.
//!
//! Owns which characters are escaped, how wide text is and who gets colours. Knows nothing of what is shown.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use crate::sys;

/// Columns of a terminal that does not tell how many it has: what terminals had before they could.
const COLUMNS: usize = 80;

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As the terminal has it.
    Plain,
    /// What is there to be looked up.
    Dim,
    /// What something is called.
    Bold,
    /// What went well.
    Good,
    /// What wants somebody's eye.
    Warn,
    /// What went wrong.
    Bad,
}

impl Style {
    /// The parameters of "select graphic rendition".
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Dim => "2",
            Style::Bold => "1",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
        }
    }
}

/// Where text goes, and what it may have there.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Whether somebody looks at it.
    pub is_terminal: bool,
    colour: bool,
    columns: Option<usize>,
}

impl Screen {
    /// What this file is: colours for a terminal, unless `NO_COLOR` has a value (no-color.org) or `TERM` is `dumb`.
    pub fn of(file: &(impl IsTerminal + AsFd)) -> Screen {
        let is_terminal = file.is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        let columns = is_terminal.then(|| sys::terminal_columns(file.as_fd()).unwrap_or(COLUMNS));
        Screen { is_terminal, colour: is_terminal && !plain, columns }
    }

    /// Nothing to write yet.
    pub fn text(self) -> Text {
        Text { screen: self, text: String::new(), used: 0 }
    }

    /// Rows below their heads, each column as wide as it must be; a terminal's edge cuts the last one.
    pub fn table<const N: usize>(self, heads: [&str; N], rows: &[(Style, [String; N])]) -> Text {
        let width = |column: usize| {
            let cells = rows.iter().map(|(_, cells)| width(&line(&cells[column])));
            cells.max().unwrap_or(0).max(heads[column].len())
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        let mut text = self.text();
        let heads = [(Style::Bold, heads.map(str::to_owned))];
        for (style, cells) in heads.iter().chain(rows) {
            for (column, cell) in cells.iter().enumerate() {
                if column + 1 == N {
                    text.rest(*style, cell);
                } else {
                    let begin = text.used;
                    text.put(*style, cell);
                    let missing = widths[column] + 2 - (text.used - begin);
                    text.put(Style::Plain, &" ".repeat(missing));
                }
            }
            text.end();
        }
        text
    }
}

/// Text for a screen; all that is put into it is made harmless.
pub struct Text {
    screen: Screen,
    text: String,
    /// Columns of the line that is being written.
    used: usize,
}

impl Text {
    /// Adds to the line; what would begin another is escaped.
    pub fn put(&mut self, style: Style, text: &str) {
        let text = line(text);
        self.used += width(&text);
        self.painted(style, &text);
    }

    /// The same for what may be long: a terminal's edge cuts it.
    pub fn rest(&mut self, style: Style, text: &str) {
        match self.screen.columns {
            Some(columns) => self.put(style, &cut(&line(text), columns.saturating_sub(self.used))),
            None => self.put(style, text),
        }
    }

    /// Ends the line.
    pub fn end(&mut self) {
        self.text.push('\n');
        self.used = 0;
    }

    fn painted(&mut self, style: Style, text: &str) {
        match self.screen.colour && style != Style::Plain && !text.is_empty() {
            true => drop(write!(self.text, "\x1b[{}m{text}\x1b[0m", style.code())), // a String takes all
            false => self.text.push_str(text),
        }
    }

    /// What is to be written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Text of any lines without what a terminal would obey: it shows as JSON writes it, so that JSON stays what it is.
pub fn safe(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_obeyed(c) && !matches!(c, '\n' | '\t'))
}

/// The same in one line.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed)
}

/// Control characters, C1 among them, and what turns the direction of text: a command must read as it will run.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, which: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&which) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            c if !which(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => drop(write!(out, "\\u{:04x}", u32::from(c))), // a String takes all
        }
    }
    Cow::Owned(out)
}

/// How many columns a text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// At most so many columns of a text; one that is longer ends in `…`.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if width(text) <= most {
        return Cow::Borrowed(text);
    }
    let mut used = 1;
    let stays = |c: &char| {
        used += columns(*c);
        used <= most
    };
    let mut out: String = text.chars().take_while(stays).collect();
    out.push_str(if most > 0 { "…" } else { "" });
    Cow::Owned(out)
}

/// How many columns a character takes: the ranges of Unicode's East Asian width that matter, emoji, and marks that stand over
/// another character.
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xe0100..=0xe01ef => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCREEN: Screen = Screen { is_terminal: true, colour: true, columns: Some(20) };

    #[test]
    fn nothing_of_a_stranger_reaches_a_terminal_as_a_command() {
        let evil = "a\u{1b}[2Jb\rc\u{9b}31md\u{7f}\u{202e}e\u{0}";
        let shown = "a\\u001b[2Jb\\rc\\u009b31md\\u007f\\u202ee\\u0000";
        assert_eq!((safe(evil), line(evil)), (shown.into(), shown.into()));
        assert_eq!((safe("a\n\tb"), line("a\n\tb")), ("a\n\tb".into(), "a\\n\\tb".into()));
        assert!(matches!(safe("plain, äöü, 漢字"), Cow::Borrowed(_)));
        let json = serde_json::json!({"text": evil});
        let printed = format!("{json:#}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe(&printed)).unwrap(), json);
        let mut text = SCREEN.text();
        text.put(Style::Warn, evil);
        assert_eq!(text.as_str(), format!("\u{1b}[33m{shown}\u{1b}[0m"));
    }

    #[test]
    fn the_edge_cuts_by_columns_and_not_within_a_character() {
        assert_eq!((width("漢字e\u{301}"), width("🙂")), (5, 2));
        assert_eq!((cut("漢字漢字", 8), cut("漢字漢字", 7)), ("漢字漢字".into(), "漢字漢…".into()));
        assert_eq!((cut("漢字", 2), cut("ab", 1), cut("ab", 0)), ("…".into(), "…".into(), "".into()));
        let mut text = SCREEN.text();
        text.put(Style::Plain, "0123456789 ");
        text.rest(Style::Dim, "0123456789");
        assert_eq!(text.as_str(), "0123456789 \u{1b}[2m01234567…\u{1b}[0m");
    }

    #[test]
    fn tables_line_up() {
        let row = |a: &str, b: &str| (Style::Plain, [a.to_owned(), b.to_owned()]);
        let screen = Screen { colour: false, ..SCREEN };
        let table =
            screen.table(["NAME", "WHERE"], &[row("漢字漢", "/tmp"), row("a", "/a/long/folder/of/somebody")]);
        assert_eq!(table.as_str(), "NAME    WHERE\n漢字漢  /tmp\na       /a/long/fol…\n");
        let piped = Screen { is_terminal: false, columns: None, ..screen };
        let table = piped.table(["A", "B"], &[row("a", "/a/long/folder/of/somebody")]);
        assert_eq!(table.as_str(), "A  B\na  /a/long/folder/of/somebody\n");
    }
}
