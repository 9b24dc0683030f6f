//! Log lines on stderr: `PROGRAM: message`, `PROGRAM: warning: message`, `PROGRAM: error: message`.
//!
//! Contract: without times and colours, so a terminal and a journal show the same line. A line
//! never makes the thread that logs it wait: see [`stderr`].

use crate::stderr;
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The form of a line.
struct Plain {
    program: &'static str,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static>
    FormatEvent<S, N> for Plain
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        to.write_str(self.program)?;
        to.write_str(match *event.metadata().level() {
            Level::ERROR => ": error: ",
            Level::WARN => ": warning: ",
            _ => ": ",
        })?;
        context.field_format().format_fields(to.by_ref(), event)?;
        writeln!(to)
    }
}

/// Writes the log lines of `program` to stderr; with `quiet` only warnings and errors.
pub fn start(program: &'static str, quiet: bool) {
    let most = if quiet { Level::WARN } else { Level::INFO };
    tracing_subscriber::fmt()
        .with_max_level(most)
        .with_writer(|| stderr::Line)
        .with_ansi(false)
        // Its own complaints about the writer would go to stderr directly.
        .log_internal_errors(false)
        .event_format(Plain { program })
        .init();
}
