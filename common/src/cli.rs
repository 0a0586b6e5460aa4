//! The command line of a program: one table that the parser, the help and the reference read.
//!
//! Owns what a command is, how one ends and what it prints. Knows no program's commands; `config` reads the flags.

use std::ffi::OsString;
use std::fmt::{Display, Write as _};
use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;

use serde_json::Value;

use crate::config::{self, EXIT_CODES, EXIT_FAILED, EXIT_USAGE, Flag, Usage, Values};
use crate::http::MAX_BODY_BYTES;
use crate::terminal::{self, Screen, Style, Text, safe};
use crate::time::Timestamp;
use crate::trace;

const SETTINGS: &str = "Settings (a flag wins over its variable; an empty variable is an unset one)";

/// A program: its name, and all that it can be told.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// As it is called.
    pub name: &'static str,
    /// What it is, in half a line.
    pub about: &'static str,
    /// Everything it can be asked to do, beside `help` and `version`.
    pub commands: &'static [Command],
    /// Every setting and switch.
    pub flags: &'static [Flag],
    /// Its own version.
    pub version: &'static str,
}

/// Something that a program does when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// `start`.
    pub name: &'static str,
    /// What it needs to be told, in order: `SESSION`, `TEXT`; what may be left out comes last, as `[TEXT]`.
    pub arguments: &'static [&'static str],
    /// What it does: a first sentence for the list, and what else there is to know.
    pub help: &'static str,
    /// Command lines that a reader can copy.
    pub examples: &'static [&'static str],
    /// Does it.
    pub run: fn(&Values) -> Result<(), Failure>,
}

/// Why a command ended badly, with its exit code.
#[derive(Debug)]
pub struct Failure(pub u8, pub String);

impl Failure {
    /// What could not be done, and why.
    pub fn new(what: &str, why: &dyn Display) -> Failure {
        Failure(EXIT_FAILED, format!("{what}: {why}"))
    }
}

impl From<Usage> for Failure {
    fn from(usage: Usage) -> Failure {
        Failure(EXIT_USAGE, usage.0)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure(EXIT_FAILED, message)
    }
}

/// What an argument `TEXT` says: the text itself, or for `-` all of stdin.
///
/// # Errors
/// A text without a word in it; a stdin that cannot be read.
pub fn text_or_stdin(text: &str) -> Result<String, Failure> {
    let mut input = text.to_owned();
    if text == "-" {
        input.clear();
        // One byte more than a daemon takes, to know that there is more.
        let read = std::io::stdin().take(MAX_BODY_BYTES as u64 + 1).read_to_string(&mut input);
        read.map_err(|error| Failure::new("cannot read TEXT from stdin", &error))?;
    }
    if input.len() > MAX_BODY_BYTES {
        let message = format!("TEXT is over {MAX_BODY_BYTES} bytes, which is all that a daemon takes");
        return Err(Usage(message).into());
    }
    match input.trim().is_empty() {
        true => Err(Usage("TEXT is empty".to_owned()).into()),
        false => Ok(input),
    }
}

/// The things of a list in an answer; none, if there is no such list.
pub fn list<'a>(data: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    data[key].as_array().into_iter().flatten()
}

/// How long ago a time was.
pub fn age(time: &Value) -> String {
    let then = time.as_str().and_then(Timestamp::parse);
    then.map_or("-".to_owned(), |then| span(Timestamp::now().millis().saturating_sub(then.millis())))
}

/// How long it is until a time.
pub fn left(time: &Value) -> String {
    let then = time.as_str().and_then(Timestamp::parse);
    then.map_or("-".to_owned(), |then| span(then.millis().saturating_sub(Timestamp::now().millis())))
}

/// A span of time by its largest unit.
fn span(millis: u64) -> String {
    match millis / 1000 {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Prints what was asked for, without what a terminal would obey.
///
/// # Errors
/// If stdout cannot be written; that nobody reads on is no failure (`conductor config | head`).
pub fn say(text: impl Display) -> Result<(), Failure> {
    write(&safe(&text.to_string())).map(drop)
}

/// Prints text that is made for stdout, and says whether somebody reads on.
///
/// # Errors
/// If stdout cannot be written.
pub fn show(text: &Text) -> Result<ControlFlow<()>, Failure> {
    write(text.as_str())
}

/// Tells something beside what was asked for: on stderr, so that stdout stays what it is.
pub fn note(style: Style, text: &str) {
    let mut err = std::io::stderr().lock();
    let mut shown = Screen::of(&err).text();
    shown.put(style, text);
    shown.end();
    let _ = err.write_all(shown.as_str().as_bytes()); // nobody can be told that stderr is gone
}

fn write(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Failure::new("cannot write to stdout", &error)),
    }
}

impl Program {
    /// Does what the process was asked to do, and says how that ended.
    pub fn main(&self) -> ExitCode {
        let args: Vec<OsString> = std::env::args_os().skip(1).collect();
        let done = self.read(args.iter().cloned(), |name| std::env::var_os(name));
        let Err(Failure(code, message)) = done.map_err(Failure::from).and_then(|values| self.run(&values))
        else {
            return ExitCode::SUCCESS;
        };
        let hint = if code == EXIT_USAGE { self.hint(&args) } else { String::new() };
        // Nobody can be told that stderr is gone.
        let _ = writeln!(std::io::stderr(), "{}: {}{hint}", self.name, terminal::line(&message));
        ExitCode::from(code)
    }

    /// Where to read on: the help of the command, as far as `args` name one.
    fn hint(&self, args: &[OsString]) -> String {
        let named = |command: &&Command| args.iter().any(|arg| arg == command.name);
        let command =
            self.commands.iter().find(named).map_or(String::new(), |command| format!(" {}", command.name));
        format!("; see `{} help{command}`", self.name)
    }

    /// What `args` (without the program's name) and the variables that `env` looks up ask for.
    ///
    /// # Errors
    /// Those of [`Values::read`]; a command that there is not, one without its arguments, or a flag that it does not take.
    pub fn read(
        &self,
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Values, Usage> {
        let values = Values::read(self.flags, args, env)?;
        match values.command() {
            "" => return Err(Usage("no command".to_string())),
            "help" | "version" => return Ok(values),
            _ => {}
        }
        let command = self.command(values.command())?;
        values.takes(command.arguments)?;
        match self.flags.iter().find(|flag| !flag.is_of(command.name) && values.has(flag.name)) {
            None => Ok(values),
            Some(flag) => Err(Usage(format!(
                "{} is not for `{}`, but for `{}`",
                flag.name,
                command.name,
                flag.commands.join("`, `")
            ))),
        }
    }

    fn run(&self, values: &Values) -> Result<(), Failure> {
        match values.command() {
            "version" => say(format_args!("{} {}\n", self.name, self.version)),
            "help" => match values.given_arguments() {
                [name, ..] if !["help", "version"].contains(&name.as_str()) => {
                    say(self.help_of(self.command(name)?))
                }
                _ => say(self.help()),
            },
            name => {
                let command = self.command(name)?;
                trace::set(values)?;
                (command.run)(values)
            }
        }
    }

    fn command(&self, name: &str) -> Result<&'static Command, Usage> {
        let known = || self.commands.iter().map(|command| command.name).chain(["help", "version"]);
        self.commands
            .iter()
            .find(|command| command.name == name)
            .ok_or_else(|| Usage(format!("unknown command `{name}`{}", config::did_you_mean(name, known()))))
    }

    /// All of it, for `help`.
    pub fn help(&self) -> String {
        let own = self.commands.iter().map(|command| (self.line(command), first_sentence(command.help)));
        let common =
            [("help [COMMAND]", "This text, or all about one command."), ("version", "Its version.")];
        let common = common.map(|(line, help)| (format!("{} {line}", self.name), help));
        let commands: String =
            own.chain(common).map(|(line, help)| format!("  {line}\n      {help}\n")).collect();
        let (own, settings) = self.flags_of(|flag| !flag.commands.is_empty());
        let codes = EXIT_CODES.map(|(code, meaning)| (code.to_string(), meaning));
        format!(
            "{}: {}\n\nCommands:\n{commands}\nFlags of commands:\n{}\n{SETTINGS}:\n{}\nExit codes:\n{}",
            self.name,
            self.about,
            config::help(&own),
            config::help(&settings),
            columns(&codes),
        )
    }

    /// One command, for `help COMMAND` and `COMMAND --help`.
    pub fn help_of(&self, command: &Command) -> String {
        let (own, settings) = self.flags_of(|flag| flag.commands.contains(&command.name));
        let mut text = format!("{}\n\n{}\n", self.line(command), command.help.replace(". ", ".\n"));
        if !own.is_empty() {
            let _ = write!(text, "\nFlags:\n{}", config::help(&own));
        }
        if !command.examples.is_empty() {
            let _ = write!(text, "\nExamples:\n  {}\n", command.examples.join("\n  "));
        }
        let _ = write!(text, "\n{SETTINGS}:\n{}", config::help(&settings));
        text
    }

    /// The flags of commands that `wanted` takes, and the settings.
    fn flags_of(&self, wanted: impl Fn(&Flag) -> bool) -> (Vec<&Flag>, Vec<&Flag>) {
        let settings = self.flags.iter().filter(|flag| flag.commands.is_empty());
        (self.flags.iter().filter(|flag| wanted(flag)).collect(), settings.collect())
    }

    /// How a command is called.
    fn line(&self, command: &Command) -> String {
        let mut words = vec![self.name, command.name];
        words.extend(command.arguments);
        let flags = self.flags.iter().filter(|flag| flag.commands.contains(&command.name));
        let flags = flags.map(|flag| match flag.value {
            "" => format!(" [{}]", flag.name),
            value => format!(" [{} {value}]", flag.name),
        });
        words.join(" ") + &flags.collect::<String>()
    }
}

/// What is wrong with a table, a sentence each: for the tests of whoever has one.
pub fn faults(program: &Program) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |fine: bool, what: &str, why: &str| {
        if !fine {
            faults.push(format!("{what} {why}"));
        }
    };
    let sentence = |text: &str| text.ends_with('.') && !text.starts_with(|c: char| c.is_whitespace());
    for flag in program.flags {
        check(sentence(flag.help), flag.name, "has a help that is no sentence");
        for name in flag.commands {
            check(
                program.commands.iter().any(|command| command.name == *name),
                flag.name,
                "is for no command",
            );
        }
    }
    for command in program.commands {
        check(sentence(command.help), command.name, "has a help that is no sentence");
        check(!command.examples.is_empty(), command.name, "has no example");
        for example in command.examples {
            let mut words = words(example).into_iter();
            let own = words.next().is_some_and(|word| word == program.name);
            let read = program.read(words, |_| None);
            let why = match &read {
                Err(usage) => format!("does not parse: {usage}"),
                Ok(_) => "is an example of something else".to_string(),
            };
            check(own && read.is_ok_and(|values| values.command() == command.name), example, &why);
        }
    }
    faults
}

/// The words of a shell's line; quotes keep some together.
fn words(line: &str) -> Vec<OsString> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.push(String::new()),
            (c, _) => words.last_mut().into_iter().for_each(|word| word.push(c)),
        }
    }
    words.into_iter().map(OsString::from).collect()
}

fn first_sentence(text: &str) -> &str {
    text.split_inclusive(". ").next().unwrap_or_default().trim_end()
}

/// Two columns, the first as wide as it must be.
fn columns(rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    rows.iter().map(|(left, right)| format!("  {left:width$}  {right}\n")).collect()
}

#[cfg(test)]
mod tests;
