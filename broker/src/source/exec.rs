//! `exec:` — datagrams that a program writes to its standard output: the broker starts it, and
//! starts it again.
//!
//! Contract: the program is started when the source is opened, before the broker gives up its
//! rights; if it cannot be started then, the source cannot be opened. Its output is read as
//! `stdin:` reads its input, so a full pipe makes the program wait; see [`super::bytes`]. Lines of
//! its standard error are logged behind its name, a limited number of them.
//!
//! A run is over when the program has ended and everything it has written is read, or when its
//! output cannot be read on: then it is ended. So is a program that closes its output and continues
//! for `kill-after`. With `restart`, readers learn that the source is gone, the program is started
//! again after a pause, and with the first bytes the source is back. The pause doubles with each
//! run, up to `max-backoff`; after a run of that length it is `min-backoff` again. Runs are never
//! mixed: each has pipes of its own, and a datagram that is cut by the end is one broker loss.
//!
//! At the end of the stream the program gets SIGTERM and what it still writes is published, until
//! it closes its output or is killed after `kill-after`.

use super::bytes::{ByteStream, Pace};
use super::contract::{Fill, OpenFor, Source, SourceError, SourceKind, WaitFor};
use crate::intake::for_sources::Intake;
use crate::process::sandbox::needs::Needs;
use errors::Errors;
use exit::Exit;
use program::{News, Pipes, Program};
use ringweir_cli::quantity::Span;
use spec::Restart;
use std::os::fd::BorrowedFd;
use std::time::Duration;

mod errors;
mod exit;
mod program;
mod spawner;
mod spec;
#[cfg(test)]
mod tests;

pub const KIND: SourceKind = SourceKind {
    name: "exec",
    usage: "exec:len32le|len16be|fixed:N|lines|pcap|pcapng[,restart=never|always|failure]\
        [,min-backoff=TIME][,max-backoff=TIME][,kill-after=TIME]:PROGRAM [ARGUMENT…]",
    about: "datagrams that a program writes to its standard output, cut by the given framing",
    open,
};

/// How often to look for news and error output while there is data.
const LOOK_NS: u64 = 1_000_000;
/// How long to wait for the end of the output of a program that has ended: a process that it left
/// behind may hold it open.
const LEFT_OPEN_NS: u64 = 500_000_000;
/// A program that ends closes its output first, and is gone a moment later.
const LONGEST_EXIT: Duration = Duration::from_millis(200);

/// The state of a run.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Its output is read.
    Reading,
    /// Its output is read to the end: waiting for the program to end, and asking it to at this
    /// moment.
    Ending { ask_at: u64 },
    /// Waiting until this moment to start it again.
    Pausing { until: u64 },
    /// The stream ends.
    Ended,
}

struct Exec {
    name: String,
    stream: ByteStream,
    errors: Errors,
    program: Program,
    pid: i32,
    restart: Restart,
    first_pause: u64,
    longest_pause: u64,
    state: State,
    /// When to look for news and error output next.
    look_at: u64,
    /// This round has looked, and found no error output: so that there is some wakes the pump. It
    /// must not do so while nobody takes it.
    is_quiet: bool,
    started_at: Option<u64>,
    /// How the program ended, and when that was seen.
    exit: Option<(Exit, u64)>,
    /// Why its output cannot be read on.
    failure: Option<String>,
    /// It has closed its output and was asked to end.
    lived_on: bool,
    next_pause: u64,
    stopping: bool,
}

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    let spec = spec::parse(argument)?;
    let name = spec.command.name().to_owned();
    let (program, Pipes { output, errors }, pid) = Program::open(&spec.command)?;
    let stream = ByteStream::new(&name, output, spec.framing, Pace::Max, stream.max_datagram)?;
    let [first_pause, longest_pause] =
        [spec.first_pause, spec.longest_pause].map(|pause| pause.as_nanos() as u64);
    Ok(Box::new(Exec {
        name,
        stream,
        errors: Errors::new(errors),
        program,
        pid,
        restart: spec.restart,
        first_pause,
        longest_pause,
        state: State::Reading,
        look_at: 0,
        is_quiet: false,
        started_at: None,
        exit: None,
        failure: None,
        lived_on: false,
        next_pause: first_pause,
        stopping: false,
    }))
}

impl Exec {
    /// Takes news of the program and lines of its standard error.
    fn look(&mut self, intake: &mut Intake) -> Result<(), SourceError> {
        self.look_at = intake.now() + LOOK_NS;
        while let Some(news) = self.program.next() {
            match news {
                News::Started(pid) => self.pid = pid,
                News::Ended(exit) => self.exit = Some((exit, intake.now())),
                News::SpawnerGone => {
                    return Err(SourceError(format!(
                        "{}: the process that starts it was killed, and it was killed with it: \
                        restart ringd",
                        self.name
                    )));
                }
            }
        }
        self.is_quiet = !self.errors.log(intake, &self.name);
        Ok(())
    }

    /// Reads the output.
    fn read(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        let now = intake.now();
        match self.stream.fill(intake) {
            Ok(Fill::Idle) => {
                if let Some((_, since)) = self.exit
                    && now >= since + LEFT_OPEN_NS
                {
                    self.stream.hang_up()?;
                    return Ok(Fill::Took);
                }
                return Ok(Fill::Idle);
            }
            Ok(Fill::Took) => return Ok(Fill::Took),
            Ok(Fill::Ended) => {
                let patience = self.program.kill_after().max(LONGEST_EXIT);
                let ask_at = now + patience.as_nanos() as u64;
                self.state = State::Ending { ask_at };
            }
            // Nothing more of this run is of use.
            Err(SourceError(failure)) => {
                self.failure = Some(failure);
                self.state = State::Ending { ask_at: now };
            }
        }
        Ok(Fill::Took)
    }

    /// The run is over: ends the stream, or pauses before the next run.
    fn run_ended(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        self.errors.finish(intake, &self.name);
        if self.stopping {
            if let Some(failure) = self.failure.take() {
                intake.log(failure);
            }
            self.state = State::Ended;
            return Ok(Fill::Ended);
        }
        let Some((exit, _)) = self.exit.take() else { return Ok(Fill::Idle) };
        let failed = self.failure.is_some() || !exit.is_success();
        let why = match (self.failure.take(), std::mem::take(&mut self.lived_on)) {
            (Some(failure), _) => failure,
            (None, true) => {
                format!("{}: it closed its standard output and continued; {exit}", self.name)
            }
            (None, false) => format!("{}: {exit}", self.name),
        };
        let again = match self.restart {
            Restart::Never => false,
            Restart::Always => true,
            Restart::Failure => failed,
        };
        if !again {
            self.state = State::Ended;
            return if failed { Err(SourceError(why)) } else { Ok(Fill::Ended) };
        }
        let now = intake.now();
        if self.started_at.is_some_and(|at| now - at >= self.longest_pause) {
            self.next_pause = self.first_pause;
        }
        let pause = self.next_pause;
        let shown = Span(Duration::from_nanos(pause));
        intake.device_gone(format_args!("{why}; it is started again in {shown}"));
        self.next_pause = (pause * 2).min(self.longest_pause);
        self.state = State::Pausing { until: now + pause };
        Ok(Fill::Idle)
    }

    /// Starts the program again.
    fn start(&mut self, intake: &mut Intake) -> Result<(), SourceError> {
        let refused = |e| SourceError(format!("{}: it cannot be started again: {e}", self.name));
        let Pipes { output, errors } = self.program.start().map_err(refused)?;
        self.errors.read_on(errors);
        self.stream.read_on(output)?;
        self.started_at = Some(intake.now());
        self.state = State::Reading;
        Ok(())
    }
}

impl Source for Exec {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        let now = intake.now();
        self.started_at.get_or_insert(now);
        self.is_quiet = false;
        if now >= self.look_at {
            self.look(intake)?;
        }
        match self.state {
            State::Reading => self.read(intake),
            State::Ending { .. } if self.stopping || self.exit.is_some() => self.run_ended(intake),
            State::Ending { ask_at } => {
                if now >= ask_at {
                    self.lived_on = self.failure.is_none();
                    self.program.end();
                    self.state = State::Ending { ask_at: u64::MAX };
                }
                Ok(Fill::Idle)
            }
            State::Pausing { .. } if self.stopping => Ok(Fill::Ended),
            State::Pausing { until } => {
                if now >= until {
                    self.start(intake)?;
                }
                Ok(Fill::Idle)
            }
            State::Ended => Ok(Fill::Ended),
        }
    }

    fn wait_for(&self) -> WaitFor<'_> {
        let (readable, until) = match self.state {
            State::Reading => {
                (self.stream.wait_for().readable, self.exit.map(|(_, since)| since + LEFT_OPEN_NS))
            }
            State::Ending { ask_at: u64::MAX } | State::Ended => (None, None),
            State::Ending { ask_at: until } | State::Pausing { until } => (None, Some(until)),
        };
        let look_at = (!self.is_quiet).then_some(self.look_at);
        WaitFor { readable, until: until.into_iter().chain(look_at).min() }
    }

    fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.is_quiet.then(|| self.program.events())
    }

    fn stop_taking(&mut self) -> Option<Duration> {
        self.stopping = true;
        self.program.end();
        Some(self.program.kill_after())
    }

    fn needs(&self) -> Needs {
        Needs { wait: true, ..Needs::default() }
    }

    fn describe(&self) -> String {
        let restart = match self.restart {
            Restart::Never => String::new(),
            Restart::Always => ", started again whenever it ends".into(),
            Restart::Failure => ", started again if it fails".into(),
        };
        format!("{}, process {}{restart}", self.stream.describe(), self.pid)
    }
}
