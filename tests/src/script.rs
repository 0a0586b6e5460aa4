//! Directives in a turn's text, which tell a stand-in what to do with that turn.
//!
//! `[[say hello]]` and its like are read by the stand-in model (which the real CLI then acts upon) and by the fake
//! app-server (which acts by itself), so one scenario runs with both. Text without a directive gets a plain answer.
//! Owns the grammar; knows neither protocol.

use std::time::Duration;

/// A text that a directive asks for is never longer: the stand-in model answers whoever types, and lives on.
pub const MAX_BYTES: usize = 128 << 20;
/// Nor are there more deltas or items; a million is the largest flood that a test asks for.
pub const MAX_COUNT: usize = 1_000_000;
/// Nor is a pause longer, else an abandoned turn would hold its thread for days.
pub const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// What is done in one turn, up to and including one tool call at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// `[[fail STATUS [TIMES]]]`: the model answers with this HTTP status, so many times (for ever if not said).
    pub fail: Option<(u16, u32)>,
    /// `[[cut [TIMES]]]`: the model's stream ends in mid-message, so many times.
    pub cut: u32,
    /// `[[hang]]`: the model never answers.
    pub hang: bool,
    /// What follows, in order.
    pub steps: Vec<Step>,
}

/// One thing to do. Those of the first group work with both stand-ins, the others with the fake alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// `[[say TEXT]]`, `[[say-slow MS TEXT]]`: a message, a delta for each word, with a pause before each further one.
    Say(String, Duration),
    /// `[[big BYTES]]`: a message of that size, without deltas.
    Big(usize),
    /// `[[flood COUNT BYTES]]`: a message of so many deltas of that size, as fast as they go.
    Flood(usize, usize),
    /// `[[sleep MS]]`: a quiet time.
    Sleep(Duration),
    /// `[[exec COMMAND]]`: a shell command.
    Exec(String),
    /// `[[patch FILE LINE]]`: a new file with one line.
    Patch(String, String),
    /// `[[ask QUESTION|CHOICE|CHOICE]]`: a question to the user; needs plan mode.
    Ask(String, Vec<String>),

    /// `[[garbage TEXT]]`: a line on stdout that is no JSON.
    Garbage(String),
    /// `[[half]]`: half a line, a pause, the other half.
    Half,
    /// `[[line BYTES]]`: one notification of about that size.
    Line(usize),
    /// `[[request METHOD]]`: a request to the client; the turn waits for the answer, whatever it is.
    Request(String),
    /// `[[notify METHOD]]`: a notification of that name.
    Notify(String),
    /// `[[items COUNT [BYTES]]]`, `[[items-at RATE COUNT [BYTES]]]`: so many completed items, each with its own id and a text
    /// of that size; as fast as they go, or one each time this has passed.
    Items(usize, usize, Duration),
    /// `[[stderr TEXT]]`: a line on stderr.
    Stderr(String),
    /// `[[exit CODE]]`: the process ends in the middle of the turn.
    Exit(i32),
}

impl Step {
    /// Whether the model calls a tool here, and speaks again after it.
    pub fn is_tool(&self) -> bool {
        matches!(self, Step::Exec(_) | Step::Patch(..) | Step::Ask(..))
    }

    /// Whether the model says something here.
    pub fn is_message(&self) -> bool {
        matches!(self, Step::Say(..) | Step::Big(_) | Step::Flood(..))
    }
}

impl Round {
    /// Whether this round ends without a word and without a tool call, so that a plain answer belongs at its end.
    pub fn is_silent(&self) -> bool {
        !self.steps.iter().any(|step| step.is_tool() || step.is_message())
    }
}

/// The rounds that a text asks for, never empty; a new one begins after each tool call. What is in double brackets and
/// no directive is plain text.
pub fn parse(text: &str) -> Vec<Round> {
    let mut rounds = vec![Round::default()];
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("[[") {
        let Some((inside, next)) = after.split_once("]]") else { break };
        rest = next;
        let mut tool = false;
        if let Some(round) = rounds.last_mut() {
            tool = read(inside.trim(), round).is_some_and(|step| step.is_tool());
        }
        if tool {
            rounds.push(Round::default());
        }
    }
    rounds
}

/// The plain answer after a tool call; both stand-ins give the same.
pub fn after_tool(output: &str) -> String {
    format!("Done: {}", clip(output.trim(), 200))
}

/// At most `most` characters of `text`.
pub fn clip(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

/// The deltas of a message: its words, each with the space after it.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

fn read<'a>(directive: &str, round: &'a mut Round) -> Option<&'a Step> {
    let (word, rest) = directive.split_once(char::is_whitespace).unwrap_or((directive, ""));
    let step = match word {
        "fail" => {
            let (status, times) = two(rest);
            round.fail = Some((status.parse().ok()?, times.parse().unwrap_or(u32::MAX)));
            return None;
        }
        "cut" => {
            round.cut = rest.parse().unwrap_or(1);
            return None;
        }
        "hang" => {
            round.hang = true;
            return None;
        }
        "say" => Step::Say(rest.to_owned(), Duration::ZERO),
        "say-slow" => {
            let (pause, text) = two(rest);
            Step::Say(text.to_owned(), millis(pause)?)
        }
        "big" => Step::Big(size(rest)?),
        "flood" => pair(rest).map(|(count, bytes)| Step::Flood(count, bytes))?,
        "sleep" => Step::Sleep(millis(rest)?),
        "exec" => Step::Exec(rest.to_owned()),
        "patch" => {
            let (file, line) = two(rest);
            Step::Patch(file.to_owned(), line.to_owned())
        }
        "ask" => {
            let mut parts = rest.split('|').map(str::to_owned);
            Step::Ask(parts.next()?, parts.collect())
        }
        "garbage" => Step::Garbage(rest.to_owned()),
        "half" => Step::Half,
        "line" => Step::Line(size(rest)?),
        "request" => Step::Request(rest.to_owned()),
        "notify" => Step::Notify(rest.to_owned()),
        "items" => pair(rest).map(|(count, bytes)| Step::Items(count, bytes, Duration::ZERO))?,
        "items-at" => {
            let (rate, rest) = two(rest);
            let every = Duration::from_secs(1).checked_div(rate.parse().ok()?)?;
            pair(rest).map(|(count, bytes)| Step::Items(count, bytes, every))?
        }
        "stderr" => Step::Stderr(rest.to_owned()),
        "exit" => Step::Exit(rest.parse().ok()?),
        _ => return None,
    };
    round.steps.push(step);
    round.steps.last()
}

fn two(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

fn size(text: &str) -> Option<usize> {
    text.parse().ok().map(|bytes: usize| bytes.min(MAX_BYTES))
}

/// A count and a size, which together stay below the bound too.
fn pair(text: &str) -> Option<(usize, usize)> {
    let (count, bytes) = two(text);
    let count = count.parse().ok().map(|count: usize| count.min(MAX_COUNT))?;
    Some((count, size(bytes).unwrap_or(0).min(MAX_BYTES / count.max(1))))
}

fn millis(text: &str) -> Option<Duration> {
    let millis = text.strip_suffix("ms").unwrap_or(text).parse().ok().map(Duration::from_millis)?;
    Some(millis.min(MAX_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_call_ends_its_round() {
        let rounds = parse("please [[say one two]] [[exec echo hi]] and then [[say-slow 20ms three]]");
        assert_eq!(rounds.len(), 2);
        let one = Step::Say("one two".into(), Duration::ZERO);
        assert_eq!(rounds[0].steps, [one, Step::Exec("echo hi".into())]);
        assert_eq!(rounds[1].steps, [Step::Say("three".into(), Duration::from_millis(20))]);
        assert!(parse("[[exec true]]")[1].is_silent());
    }

    #[test]
    fn what_is_no_directive_is_text() {
        for text in
            ["", "plain", "[[1, 2], [3, 4]]", "[[say open", "[[big many]]", "[[exit]]", "[[items-at 0 1]]"]
        {
            assert_eq!(parse(text), [Round::default()], "{text}");
        }
    }

    #[test]
    fn failures_belong_to_their_round() {
        assert_eq!(parse("[[fail 500]]")[0].fail, Some((500, u32::MAX)));
        assert_eq!(parse("[[fail 503 2]] [[say ok]]")[0].fail, Some((503, 2)));
        assert_eq!(parse("[[exec true]] [[cut 3]]")[1].cut, 3);
        assert!(parse("[[hang]]")[0].hang);
    }

    #[test]
    fn no_directive_asks_for_too_much() {
        let step = |text: &str| parse(text)[0].steps[0].clone();
        assert_eq!(step("[[big 99999999999999]]"), Step::Big(MAX_BYTES));
        assert_eq!(step("[[line 99999999999999]]"), Step::Line(MAX_BYTES));
        assert_eq!(step("[[flood 9999999 9999999]]"), Step::Flood(MAX_COUNT, MAX_BYTES / MAX_COUNT));
        assert_eq!(step("[[items 20000 100]]"), Step::Items(20000, 100, Duration::ZERO));
        assert_eq!(step("[[items-at 500 9 8]]"), Step::Items(9, 8, Duration::from_millis(2)));
        assert_eq!(step("[[sleep 99999999999]]"), Step::Sleep(MAX_PAUSE));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(clip("äöü", 2), "äö");
        assert_eq!(clip("ab", 5), "ab");
        assert_eq!(words("a b  c").collect::<Vec<_>>(), ["a ", "b ", " ", "c"]);
    }
}
