//! What the fake's command line can ask for. A faulty start is one to which the faults of `--on` and
//! `--broken-config` apply: each start, or the first so many.
//!
//! | flag | effect |
//! | --- | --- |
//! | `app-server`, `--strict-config`, `-c KEY=VALUE` | taken and ignored |
//! | `--banner` | a line that is no JSON on stdout, and one on stderr, at the start |
//! | `--version V` | the version it claims (0.169.0) |
//! | `--login-required` | `account/read` wants a login |
//! | `--on METHOD=ACTION` | what becomes of that request (`*`: of all but `initialize`): `hang`, `exit:CODE`, `delay:MS`, `error:MESSAGE`, `unknown`, `overload:TIMES` |
//! | `--broken-config` | behaves as with an invalid `config.toml` |
//! | `--faulty-starts N` | only the first N starts in this home are faulty |
//! | `--ignore-eof`, `--ignore-term` | does not end then |
//! | `--think-ms N` | a quiet time before a plain answer (0) |
//! | `--most-threads N` | only the newest N threads that do nothing stay in memory (all of them) |
//! | `--wrapped` | runs below a wrapper process that passes the pipes on |
//! | `--play FILE` | plays a recorded session; given again, the next start plays the next one |
//! | `--patience-ms N` | how long the player waits for a client's message that may not come (1000) |

use std::path::PathBuf;
use std::time::Duration;

/// The parsed command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// `--banner`
    pub banner: bool,
    /// `--version`
    pub version: String,
    /// `--login-required`
    pub login_required: bool,
    /// `--on`, in order; the first that fits counts.
    pub rules: Vec<Rule>,
    /// `--broken-config`
    pub broken_config: bool,
    /// `--faulty-starts`
    pub faulty_starts: Option<usize>,
    /// `--ignore-eof`
    pub ignore_eof: bool,
    /// `--ignore-term`
    pub ignore_term: bool,
    /// `--think-ms`
    pub think: Duration,
    /// `--most-threads`
    pub most_threads: usize,
    /// `--wrapped`
    pub wrapped: bool,
    /// `--play`
    pub plays: Vec<PathBuf>,
    /// `--patience-ms`
    pub patience: Duration,
}

/// One `--on`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The method, or `*`.
    pub method: String,
    /// What becomes of it.
    pub action: Action,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is never answered.
    Hang,
    /// The process ends with this code.
    Exit(i32),
    /// It is handled after this time, others meanwhile.
    Delay(Duration),
    /// It is refused with this code and message.
    Refuse(i64, String),
    /// It is refused as a method that this version does not know.
    Unknown,
    /// The first so many of them are refused as overload.
    Overload(u32),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            banner: false,
            version: "0.169.0".into(),
            login_required: false,
            rules: Vec::new(),
            broken_config: false,
            faulty_starts: None,
            ignore_eof: false,
            ignore_term: false,
            think: Duration::ZERO,
            most_threads: usize::MAX,
            wrapped: false,
            plays: Vec::new(),
            patience: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// Names the argument that is unknown or has no proper value.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            let number =
                |text: &String| text.parse::<u32>().map_err(|_| format!("{arg} needs a number, not {text}"));
            match arg.as_str() {
                "app-server" | "--strict-config" => {}
                "-c" => drop(value()?),
                "--banner" => options.banner = true,
                "--version" => options.version = value()?.clone(),
                "--login-required" => options.login_required = true,
                "--on" => options.rules.push(Rule::parse(value()?)?),
                "--broken-config" => options.broken_config = true,
                "--faulty-starts" => options.faulty_starts = Some(number(value()?)? as usize),
                "--ignore-eof" => options.ignore_eof = true,
                "--ignore-term" => options.ignore_term = true,
                "--think-ms" => options.think = Duration::from_millis(number(value()?)?.into()),
                "--most-threads" => options.most_threads = number(value()?)? as usize,
                "--wrapped" => options.wrapped = true,
                "--play" => options.plays.push(value()?.into()),
                "--patience-ms" => options.patience = Duration::from_millis(number(value()?)?.into()),
                other => return Err(format!("unexpected argument '{other}' found")),
            }
        }
        Ok(options)
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Rule, String> {
        let wrong = || format!("--on needs METHOD=ACTION, not {text}");
        let (method, action) = text.split_once('=').ok_or_else(wrong)?;
        let (word, rest) = action.split_once(':').unwrap_or((action, ""));
        let action = match word {
            "hang" => Action::Hang,
            "exit" => Action::Exit(rest.parse().map_err(|_| wrong())?),
            "delay" => Action::Delay(Duration::from_millis(rest.parse().map_err(|_| wrong())?)),
            "error" => Action::Refuse(-32600, rest.to_owned()),
            "unknown" => Action::Unknown,
            "overload" => Action::Overload(rest.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        };
        Ok(Rule { method: method.to_owned(), action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Options, String> {
        Options::parse(&args.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_fault_has_a_method_and_an_action() {
        let options =
            parse("app-server --on turn/start=delay:50 --on *=overload:3 --faulty-starts 2").unwrap();
        let delay = Action::Delay(Duration::from_millis(50));
        assert_eq!(options.rules[0], Rule { method: "turn/start".into(), action: delay });
        assert_eq!(options.rules[1].action, Action::Overload(3));
        assert_eq!(options.faulty_starts, Some(2));
    }

    #[test]
    fn what_is_no_argument_is_named() {
        for (args, named) in [("--nope", "--nope"), ("--on turn/start", "--on"), ("--play", "--play needs")] {
            assert!(parse(args).unwrap_err().contains(named), "{args}");
        }
    }
}
