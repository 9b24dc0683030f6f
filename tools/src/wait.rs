//! `--wait TIME`: wait for a stream that is not there yet.
//!
//! Contract: a tool waits only while the stream is absent: no such stream, no broker behind its
//! socket, no answer or no figures yet. Any other error, such as a missing right, is reported at
//! once. Progress goes to stderr, and only to a terminal. Tools call this before they catch
//! signals, so SIGINT and SIGTERM end the wait as they end any program. A retry costs a few system
//! calls.

use crate::broker_query::{self, Pending};
use anyhow::{Context, anyhow};
use clap::Args;
use ringweir::Error;
use ringweir::view::{self, Viewer};
use ringweir_cli::quantity::Span;
use ringweir_cli::stderr;
use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Pause between two attempts.
const RETRY: Duration = Duration::from_millis(25);

/// The option; flattened into the command line of a tool.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct WaitOption {
    /// Wait up to TIME (such as 5s, 500ms or forever) for a stream that is not there yet
    #[arg(long, value_name = "TIME")]
    wait: Option<Limit>,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Time(Duration),
    Forever,
}

impl FromStr for Limit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forever" => Ok(Self::Forever),
            _ => text
                .parse::<crate::arguments::Time>()
                .map(|time| Self::Time(time.0))
                .map_err(|e| format!("{e}; or forever")),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "up to {}", Span(*time)),
            Self::Forever => f.write_str("for ever"),
        }
    }
}

impl WaitOption {
    /// Whether `--wait` was given.
    pub(crate) fn is_given(self) -> bool {
        self.wait.is_some()
    }

    /// Waits until the broker of stream `name` answers, for a tool that reads the stream.
    pub(crate) fn until_answered(self, name: &str, quiet: bool) -> anyhow::Result<()> {
        let attempt = || query(name, |name| view::describe(name).map(|_| true));
        self.until(&format!("stream {name:?}"), quiet, attempt)
    }

    /// Waits until stream `name`, or any stream if it is `None`, shows figures, for a tool that
    /// shows them.
    pub(crate) fn until_figures(self, name: Option<&str>) -> anyhow::Result<()> {
        let figures = |name: &str| Ok(Viewer::attach(name)?.snapshot().is_some());
        let Some(name) = name else {
            let attempt = || match view::streams() {
                streams if streams.is_empty() => Err(broker_query::nothing_runs()),
                // The tool itself reports the streams that do not answer.
                _ => Ok(()),
            };
            return self.until("any stream", false, attempt);
        };
        self.until(&format!("stream {name:?}"), false, || query(name, figures))
    }

    /// The same for all of `names`, or for any stream if there are none. The time is for each.
    pub(crate) fn until_all_figures(self, names: &[String]) -> anyhow::Result<()> {
        if names.is_empty() {
            return self.until_figures(None);
        }
        names.iter().try_for_each(|name| self.until_figures(Some(name)))
    }

    /// Repeats `attempt` while what it looks for is absent and there is time left.
    fn until(
        self,
        what: &str,
        quiet: bool,
        attempt: impl Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(limit) = self.wait else { return Ok(()) };
        let progress = !quiet && std::io::stderr().is_terminal();
        let began = Instant::now();
        let mut waiting = false;
        loop {
            let error = match attempt() {
                Ok(()) => break,
                Err(e) if !is_absence(&e) => return Err(e),
                Err(e) => e,
            };
            let left = match limit {
                Limit::Forever => RETRY,
                Limit::Time(time) if began.elapsed() < time => time.saturating_sub(began.elapsed()),
                Limit::Time(time) => {
                    return Err(broker_query::with_unreadable(error)).with_context(|| {
                        format!("{what} did not come within {} (--wait)", Span(time))
                    });
                }
            };
            if progress && !std::mem::replace(&mut waiting, true) {
                stderr::line(format_args!("waiting {limit} for {what} (Ctrl-C gives up)"));
            }
            std::thread::sleep(RETRY.min(left));
        }
        if waiting {
            stderr::line(format_args!("{what} is there after {}", Span(began.elapsed())));
        }
        Ok(())
    }
}

/// Asks the broker of `name`; `false` from `question` means that there are no figures yet.
fn query(
    name: &str,
    question: impl FnOnce(&str) -> Result<bool, Error> + Send + 'static,
) -> anyhow::Result<()> {
    match Pending::ask(name, question).wait()? {
        true => Ok(()),
        false => Err(anyhow!("stream {name:?}: its broker shows no figures yet")),
    }
}

/// Whether an error means that the stream may still start. An error that does not come from the
/// library means that a broker is silent; it may be starting.
fn is_absence(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(
            Error::StreamNotFound { .. }
            | Error::NotRunning { .. }
            | Error::NoAnswer { .. }
            | Error::HungUp { .. },
        )
        | None => true,
        Some(_) => false,
    }
}
