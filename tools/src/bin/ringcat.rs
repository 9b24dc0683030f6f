//! `ringcat`: one stream's datagrams to standard output, a file or a capture, and proof of what arrived.
//!
//! Contract: what is written is whole datagrams in order; what was lost is on stderr, with its count and place, and never
//! in the output. Output is gathered and written when the stream pauses or enough has come. A reader of the output that
//! goes away ends it quietly; SIGINT and SIGTERM end it behind a whole datagram.

#[path = "../sink/mod.rs"]
mod sink;

use anyhow::{Context, bail};
use clap::{ArgAction, Parser};
use ringweir::{Account, Cause, CopyError, Gap, Layer, Options, Read, Reader, Restart, Start};
use ringweir_proto::numbered::Verifier;
use ringweir_proto::quantity::{Bytes, Span};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use sink::{About, Settings, Sink};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes gathered before they are written although the stream does not pause.
const BATCH: usize = 256 << 10;
/// Lines about losses or wrong datagrams in a second; more are summed up.
const LINES_PER_SECOND: u32 = 20;

/// Writes the datagrams of a stream to standard output or a file, or proves them.
///
/// What is lost is told on stderr as it happens. A stream never waits for ringcat: if the output is slow, ringcat is
/// lapped and says so.
#[derive(Debug, Parser)]
#[command(name = "ringcat", version, after_help = EXAMPLES)]
struct Cli {
    /// Name of the stream, or the path of its control socket
    #[arg(value_name = "NAME")]
    stream: String,
    /// End after so many datagrams
    #[arg(short = 'n', long = "count", value_name = "N")]
    count: Option<u64>,
    /// Where to begin: oldest (what the ring still holds), latest (what comes from now on) or a seq
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    from: From,
    /// How to write datagrams [default: hex on a terminal, none with --verify, else raw]
    #[arg(short, long, value_name = "FORMAT", value_parser = clap::builder::PossibleValuesParser::new(formats()))]
    format: Option<String>,
    /// Short for --format len32le
    #[arg(long, conflicts_with = "format")]
    len_prefix: bool,
    /// Link type in a capture: EN10MB, RAW, USER0 … USER15 or a number from tcpdump.org/linktypes.html
    #[arg(long, value_name = "TYPE", default_value = "EN10MB")]
    link_type: LinkType,
    /// Write to this file instead of standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: Option<PathBuf>,
    /// Check every byte of a numbered stream (ringgen, gen:), and that what is missing is what was told as lost
    #[arg(long)]
    verify: bool,
    /// Say at the end what was delivered and lost (said anyway with --verify, after a loss or a signal)
    #[arg(long)]
    stats: bool,
    /// Say only what went wrong with ringcat itself; losses show in the exit status of --verify alone
    #[arg(short, long)]
    quiet: bool,
    /// What ringstat calls this reader
    #[arg(long, default_value = "ringcat")]
    label: String,
    /// Poll instead of sleeping: lowest latency, one whole processor
    #[arg(long)]
    spin: bool,
    /// End when nothing has come for so long, such as 500ms
    #[arg(long, value_name = "TIME")]
    until_idle: Option<Time>,
    /// End after so long, such as 10s; status 1 if --count was not reached
    #[arg(long, value_name = "TIME")]
    timeout: Option<Time>,
    /// Write bytes to a terminal all the same
    #[arg(long, action = ArgAction::SetTrue)]
    force: bool,
}

const EXAMPLES: &str = "\
Examples:
  Look at what comes:
    ringcat fpga0 -n 2
  Prove a test stream, byte by byte, from what the ring still holds:
    ringcat demo --from oldest -n 100000 --verify
  Capture for Wireshark:
    ringcat tap0 --format pcap -w tap0.pcap      or      ringcat tap0 --format pcap | wireshark -k -i -
  Into another ring:
    ringcat daq0 --len-prefix | ringd run --name copy0 --source stdin:len32le

Exit status: 0 ended well, 1 could not attach or write, --verify found something wrong, or --timeout came before
--count; 2 wrong usage.";

fn formats() -> Vec<clap::builder::PossibleValue> {
    sink::FORMATS.iter().map(|f| clap::builder::PossibleValue::new(f.name).help(f.about)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct From(Start);

impl FromStr for From {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "oldest" => Ok(Self(Start::Oldest)),
            "latest" | "newest" | "now" => Ok(Self(Start::Latest)),
            seq => match seq.parse() {
                Ok(seq) => Ok(Self(Start::Seq(seq))),
                Err(_) => Err("say oldest, latest or the seq of a datagram, such as 1000".into()),
            },
        }
    }
}

/// A duration; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time(Duration);

impl FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') { format!("{text}s") } else { text.into() };
        text.parse::<Span>().map(|span| Self(span.0)).map_err(|e| e.to_string())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LinkType(u32);

impl FromStr for LinkType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("DLT_").or(upper.strip_prefix("LINKTYPE_")).unwrap_or(&upper);
        let user = name.strip_prefix("USER").and_then(|n| n.parse().ok()).filter(|n: &u32| *n < 16);
        let known = match name {
            "EN10MB" | "ETHERNET" => Some(1),
            "RAW" => Some(101),
            "LINUX_SLL" => Some(113),
            "IPV4" => Some(228),
            "IPV6" => Some(229),
            "CAN_SOCKETCAN" => Some(227),
            _ => user.map(|n| 147 + n).or(name.parse().ok().filter(|n| *n <= 0xFFFF)),
        };
        known
            .map(Self)
            .ok_or_else(|| "say EN10MB, RAW, LINUX_SLL, IPV4, IPV6, USER0 … USER15 or a number up to 65535".into())
    }
}

/// Words to stderr, not more than anybody can read.
struct Words {
    stream: String,
    quiet: bool,
    second: Instant,
    lines: u32,
    withheld: u64,
}

impl Words {
    fn say(&self, text: impl std::fmt::Display) {
        // A stderr that is gone must not end what stdout still gets.
        let _gone = writeln!(io::stderr(), "ringcat: {}: {text}", self.stream);
    }

    /// One of many.
    fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.quiet {
            return;
        }
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = Instant::now();
            self.lines = 0;
            self.sum_up();
        }
        self.lines += 1;
        if self.lines > LINES_PER_SECOND {
            self.withheld += 1;
        } else {
            self.say(text());
        }
    }

    fn sum_up(&mut self) {
        if std::mem::take(&mut self.withheld) > 0 && !self.quiet {
            self.say("… and more such lines; the summary counts them");
        }
    }
}

/// What one generation of the stream gave us, counted here and not by the library, so that the two can be compared.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    first: u64,
    delivered: u64,
    bytes: u64,
    lost: u64,
    gaps: u64,
    upstream: u64,
}

impl Window {
    fn beginning(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    fn next(&self) -> u64 {
        self.first + self.delivered + self.lost
    }

    /// Whether the library's books say the same, and add up.
    fn agrees(&self, account: &Account, read_cursor: u64) -> bool {
        let theirs = (account.start, account.delivered, account.lost, account.gaps, account.bytes_delivered);
        theirs == (self.first, self.delivered, self.lost, self.gaps, self.bytes) && self.next() == read_cursor
    }
}

/// Compares the numbers in the datagrams with what was told as lost.
#[derive(Default)]
struct Proof {
    verifier: Verifier,
    /// Told as lost since the last right datagram; `None`: at least that many, nobody knows how many.
    pending: Option<u64>,
    explained: u64,
    unexplained: u64,
    ok: u64,
    bad: u64,
    repeated: u64,
}

impl Proof {
    fn new() -> Self {
        Self { pending: Some(0), ..Self::default() }
    }

    fn told(&mut self, gap: &Gap) {
        let exact = !matches!(gap.cause, Cause::Upstream { exact: false, .. });
        self.pending = self.pending.filter(|_| exact).map(|n| n + gap.count);
    }

    /// Checks a datagram; `Some` says what is wrong.
    fn check(&mut self, bytes: &[u8], about: &About) -> Option<String> {
        let before = self.verifier;
        match self.verifier.accept(bytes) {
            Err(fault) => {
                self.bad += 1;
                self.pending = self.pending.map(|n| n + 1);
                return Some(format!("seq {}: {fault}", about.seq));
            }
            Ok(_) => self.ok += 1,
        }
        if self.verifier.repeated > before.repeated {
            self.repeated += 1;
            return Some(format!("seq {}: a number that came before", about.seq));
        }
        let told = self.pending.replace(0);
        let missing = self.verifier.missing - before.missing;
        let last = before.last?;
        let told = told.unwrap_or(missing);
        self.explained += missing.min(told);
        let difference = missing.abs_diff(told);
        self.unexplained += difference;
        (difference > 0).then(|| {
            format!("seq {}: {missing} numbers are missing behind number {last}, {told} were told as lost", about.seq)
        })
    }

    /// Numbers may begin anew.
    fn restarted(&mut self) {
        self.verifier = Verifier::default();
        self.pending = Some(0);
    }

    fn holds(&self) -> bool {
        self.bad == 0 && self.unexplained == 0 && self.repeated == 0
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.holds() { "verified" } else { "NOT verified" };
        let Self { ok, bad, explained, unexplained, repeated, .. } = self;
        write!(
            f,
            "{word}: {ok} right, {bad} wrong, {explained} missing as told, {unexplained} unexplained, {repeated} repeated"
        )
    }
}

fn gap_words(gap: &Gap) -> String {
    let Gap { first, count, .. } = *gap;
    match gap.cause {
        Cause::Lapped => {
            let bytes = gap.bytes.map(|b| format!(" ({})", Bytes(b))).unwrap_or_default();
            format!("lost {count} datagrams [seq {first}..{}]{bytes}, reader was lapped", first + count - 1)
        }
        Cause::Upstream { layer, exact } => {
            let least = if exact { "" } else { "at least " };
            let place = match layer {
                Layer::Device => "in the device",
                Layer::Kernel => "in the kernel",
                Layer::Broker => "in the broker",
            };
            format!("lost {least}{count} datagrams before seq {first}, {place}")
        }
    }
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Count,
    StreamEnded,
    Idle,
    Timeout,
    Signal,
    OutputGone,
}

struct Cat<'a> {
    cli: &'a Cli,
    sink: Box<dyn Sink>,
    to: File,
    out: Vec<u8>,
    words: Words,
    window: Window,
    /// Of the generations before this one.
    earlier: Window,
    proof: Option<Proof>,
    /// Turns publish times into dates.
    date_offset: u64,
}

impl Cat<'_> {
    fn run(&mut self, reader: &mut Reader, stopped: &AtomicBool, bell: &UnixStream) -> anyhow::Result<Why> {
        let began = Instant::now();
        let mut last_news = began;
        let mut idle = false;
        let mut taken = 0u64;
        self.sink.begin(&mut self.out);
        loop {
            if self.cli.count.is_some_and(|n| taken >= n) {
                return Ok(Why::Count);
            }
            if stopped.load(Ordering::Relaxed) {
                return Ok(Why::Signal);
            }
            match reader.next()? {
                Read::Datagram(mut datagram) => {
                    idle = false;
                    let mut about = About {
                        seq: datagram.seq(),
                        len: datagram.len(),
                        original_len: datagram.original_len(),
                        channel: datagram.channel(),
                        time: datagram.source_time().unwrap_or(0),
                    };
                    if about.time == 0 {
                        about.time = datagram.publish_time().wrapping_add(self.date_offset);
                    }
                    let begin = self.out.len();
                    self.sink.before(&mut self.out, &about);
                    let start = self.out.len();
                    self.out.resize(start + about.len, 0);
                    match datagram.copy_to(&mut self.out[start..]) {
                        Ok(_) => {}
                        Err(CopyError::Torn(_)) => {
                            // The next read is the gap that begins with it.
                            self.out.truncate(begin);
                            continue;
                        }
                        Err(e) => return Err(e.into()),
                    }
                    taken += 1;
                    self.window.delivered += 1;
                    self.window.bytes += about.len as u64;
                    if let Some(proof) = &mut self.proof
                        && let Some(fault) = proof.check(&self.out[start..], &about)
                    {
                        self.words.tell(|| fault);
                    }
                    self.sink.after(&mut self.out, start, &about);
                    if self.out.len() >= BATCH && !self.flush()? {
                        return Ok(Why::OutputGone);
                    }
                }
                Read::Gap(gap) => self.gap(&gap),
                Read::Restarted(restart) => {
                    self.restarted(restart);
                    self.date_offset = reader.publish_date(0);
                }
                Read::Ended(_) => return Ok(Why::StreamEnded),
                Read::Empty => {
                    if !self.flush()? {
                        return Ok(Why::OutputGone);
                    }
                    let now = Instant::now();
                    if !idle {
                        idle = true;
                        last_news = now;
                    }
                    let left = |limit: Option<Time>, since: Instant| {
                        limit.map(|t| t.0.saturating_sub(now.duration_since(since)))
                    };
                    let (until_idle, until_timeout) =
                        (left(self.cli.until_idle, last_news), left(self.cli.timeout, began));
                    if until_timeout.is_some_and(|t| t.is_zero()) {
                        return Ok(Why::Timeout);
                    }
                    if until_idle.is_some_and(|t| t.is_zero()) {
                        return Ok(Why::Idle);
                    }
                    wait(reader, bell, until_idle.into_iter().chain(until_timeout).min(), self.cli.spin)?;
                }
            }
            if self.cli.timeout.is_some_and(|t| began.elapsed() >= t.0) {
                return Ok(Why::Timeout);
            }
        }
    }

    fn gap(&mut self, gap: &Gap) {
        match gap.cause {
            Cause::Lapped => {
                self.window.lost += gap.count;
                self.window.gaps += 1;
            }
            Cause::Upstream { .. } => self.window.upstream += gap.count,
        }
        if let Some(proof) = &mut self.proof {
            proof.told(gap);
        }
        self.words.tell(|| gap_words(gap));
    }

    fn restarted(&mut self, restart: Restart) {
        let Restart { generation, first } = restart;
        self.words.tell(|| format!("the broker was restarted: generation {generation}, from seq {first}"));
        let over = std::mem::replace(&mut self.window, Window::beginning(first));
        self.earlier.delivered += over.delivered;
        self.earlier.bytes += over.bytes;
        self.earlier.lost += over.lost;
        self.earlier.gaps += over.gaps;
        self.earlier.upstream += over.upstream;
        if let Some(proof) = &mut self.proof {
            proof.restarted();
        }
    }

    /// Writes what is gathered; false if nobody takes it any more.
    fn flush(&mut self) -> anyhow::Result<bool> {
        let written = self.to.write_all(&self.out);
        self.out.clear();
        match written {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(e) => match &self.cli.write {
                Some(path) => Err(e).with_context(|| format!("cannot write to {}", path.display())),
                None => Err(e).context("cannot write to standard output"),
            },
        }
    }

    /// The last word; whether everything adds up.
    fn conclude(&mut self, reader: &mut Reader, why: Why) -> anyhow::Result<bool> {
        // Nothing is held that is not counted, so this cannot find a gap; it brings the library's books up to date.
        if let Some(gap) = reader.release()? {
            self.gap(&gap);
        }
        self.words.sum_up();
        let Window { delivered, bytes, lost, gaps, upstream, .. } = self.earlier;
        let all = Window {
            first: self.window.first,
            delivered: delivered + self.window.delivered,
            bytes: bytes + self.window.bytes,
            lost: lost + self.window.lost,
            gaps: gaps + self.window.gaps,
            upstream: upstream + self.window.upstream,
        };
        let agrees = self.window.agrees(reader.account(), reader.read_cursor());
        let proved = self.proof.as_ref().is_none_or(Proof::holds);
        let wanted = self.cli.stats || self.cli.verify || all.lost + all.upstream > 0 || why == Why::Signal;
        if wanted && !self.cli.quiet {
            let mut text = format!(
                "{} published = {} delivered ({}) + {} lost in {} gaps",
                all.delivered + all.lost,
                all.delivered,
                Bytes(all.bytes),
                all.lost,
                all.gaps
            );
            if all.upstream > 0 {
                // Writing to a String cannot fail.
                let _infallible = write!(text, "; {} lost before the ring", all.upstream);
            }
            if let Some(proof) = &self.proof {
                let _infallible = write!(text, "; {proof}");
            }
            self.words.say(text);
        }
        if !agrees {
            self.words.say(format_args!(
                "the account does not add up, which is a bug: counted {:?}, told {:?}, at seq {}",
                self.window,
                reader.account(),
                reader.read_cursor()
            ));
        }
        Ok(agrees && proved)
    }
}

/// Sleeps until there is something to read, a signal came or the time is over.
fn wait(reader: &mut Reader, bell: &UnixStream, limit: Option<Duration>, spin: bool) -> anyhow::Result<()> {
    if spin {
        // Signals are looked at in between.
        let look = Duration::from_millis(100);
        return Ok(reader.wait(Some(limit.unwrap_or(look).min(look)))?);
    }
    if !reader.arm()? {
        // News; or the broker is gone, and then this sleeps until it is time to try again.
        return Ok(reader.wait(Some(limit.unwrap_or(Duration::MAX)))?);
    }
    let limit = limit.and_then(|t| Timespec::try_from(t).ok());
    let fd = reader.fd()?;
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(io::Error::from(e)).context("poll"),
    }
}

/// What to write, and where; `None`: bytes are not for a terminal.
fn choose(cli: &Cli, terminal: bool) -> Option<&'static sink::Format> {
    let to_terminal = terminal && cli.write.is_none();
    let name = match (&cli.format, cli.len_prefix) {
        (Some(name), _) => name.as_str(),
        (None, true) => "len32le",
        (None, false) if cli.verify && cli.write.is_none() => "none",
        (None, false) if to_terminal && !cli.force => "hex",
        (None, false) => "raw",
    };
    sink::find(name).filter(|f| !(f.binary && to_terminal) || cli.force)
}

fn run(cli: &Cli) -> anyhow::Result<bool> {
    let (bell, rings) = UnixStream::pair()?;
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The first one ends the output behind a datagram; a second one ends the process, should a pipe block it.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stopped))?;
        signal_hook::flag::register(signal, Arc::clone(&stopped))?;
        signal_hook::low_level::pipe::register(signal, rings.try_clone()?)?;
    }
    let stdout = io::stdout();
    let Some(format) = choose(cli, stdout.is_terminal()) else {
        bail!(Usage("bytes are not for a terminal: choose --format hex, redirect, say -w FILE, or --force".into()));
    };

    let mut options = Options::new(&cli.label).start(cli.from.0);
    if cli.spin {
        options = options.always_spin();
    }
    // Attached first: a file is not emptied for a stream that is not there.
    let mut reader = options.attach(&cli.stream)?;
    let to = match &cli.write {
        Some(path) => File::create(path).with_context(|| format!("cannot write to {}", path.display()))?,
        // Std's own handle searches for newlines.
        None => File::from(stdout.as_fd().try_clone_to_owned().context("standard output")?),
    };
    let settings = Settings { link_type: cli.link_type.0, max_datagram: reader.geometry().max_datagram() };
    let mut cat = Cat {
        cli,
        sink: (format.make)(&settings),
        to,
        out: Vec::with_capacity(2 * BATCH),
        words: Words { stream: cli.stream.clone(), quiet: cli.quiet, second: Instant::now(), lines: 0, withheld: 0 },
        window: Window::beginning(reader.account().start),
        earlier: Window::default(),
        proof: cli.verify.then(Proof::new),
        date_offset: reader.publish_date(0),
    };
    let why = cat.run(&mut reader, &stopped, &bell)?;
    if why != Why::OutputGone {
        cat.flush()?;
    }
    let adds_up = cat.conclude(&mut reader, why)?;
    if why == Why::Timeout
        && let Some(count) = cli.count
    {
        let taken = cat.earlier.delivered + cat.window.delivered;
        cat.words.say(format_args!("--timeout: {taken} of {count} datagrams came"));
        return Ok(false);
    }
    Ok(adds_up)
}

/// The fault is in the command line.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringcat: {error:#}");
            if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir_proto::numbered;

    fn cli(line: &str) -> Cli {
        Cli::try_parse_from(line.split_whitespace()).unwrap()
    }

    fn name(line: &str, terminal: bool) -> Option<&'static str> {
        choose(&cli(line), terminal).map(|f| f.name)
    }

    #[test]
    fn the_format_follows_the_terminal_unless_said() {
        assert_eq!(name("ringcat x", true), Some("hex"));
        assert_eq!(name("ringcat x", false), Some("raw"));
        assert_eq!(name("ringcat x -w f", true), Some("raw"));
        assert_eq!(name("ringcat x --verify", true), Some("none"));
        assert_eq!(name("ringcat x --verify --format raw", false), Some("raw"));
        assert_eq!(name("ringcat x --len-prefix", false), Some("len32le"));
        for line in ["--format raw", "--format pcap", "--len-prefix"] {
            assert_eq!(name(&format!("ringcat x {line}"), true), None, "{line}");
            assert!(name(&format!("ringcat x {line} --force"), true).is_some(), "{line}");
            assert!(name(&format!("ringcat x {line} -w f"), true).is_some(), "{line}");
        }
    }

    #[test]
    fn places_times_and_link_types_are_read() {
        assert_eq!(cli("ringcat x").from, From(Start::Latest));
        assert_eq!(cli("ringcat x --from oldest").from, From(Start::Oldest));
        assert_eq!(cli("ringcat x --from 77").from, From(Start::Seq(77)));
        assert_eq!(cli("ringcat x --timeout 2 --until-idle 500ms").timeout, Some(Time(Duration::from_secs(2))));
        for (text, number) in [("en10mb", 1), ("USER3", 150), ("DLT_RAW", 101), ("147", 147)] {
            assert_eq!(text.parse(), Ok(LinkType(number)), "{text}");
        }
        for bad in ["ringcat x --from yesterday", "ringcat x --link-type USER16", "ringcat x --format xml", "ringcat"] {
            assert!(Cli::try_parse_from(bad.split_whitespace()).is_err(), "{bad}");
        }
    }

    fn datagram(number: u64) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        numbered::fill(&mut bytes, number, 0);
        bytes
    }

    fn lapped(count: u64) -> Gap {
        Gap { first: 0, count, bytes: None, time: 0, cause: Cause::Lapped }
    }

    const ABOUT: About = About { seq: 0, len: 40, original_len: 40, channel: 0, time: 0 };

    #[test]
    fn what_is_missing_must_be_what_was_told() {
        let mut proof = Proof::new();
        // Lost before the first datagram: nobody can say which number it should have.
        proof.told(&lapped(5));
        for n in [5, 6] {
            assert_eq!(proof.check(&datagram(n), &ABOUT), None);
        }
        proof.told(&lapped(3));
        assert_eq!(proof.check(&datagram(10), &ABOUT), None);
        assert!(proof.holds());
        assert_eq!((proof.ok, proof.explained), (3, 3));
        // The controls: missing and not told, told and not missing, repeated, damaged.
        assert!(proof.check(&datagram(12), &ABOUT).unwrap().contains("1 numbers are missing"));
        proof.told(&lapped(1));
        assert!(proof.check(&datagram(13), &ABOUT).unwrap().contains("1 were told"));
        assert!(proof.check(&datagram(13), &ABOUT).unwrap().contains("came before"));
        let mut damaged = datagram(14);
        damaged[30] ^= 1;
        assert!(proof.check(&damaged, &ABOUT).unwrap().contains("checksum"));
        assert_eq!((proof.unexplained, proof.repeated, proof.bad), (2, 1, 1));
        assert!(proof.to_string().starts_with("NOT verified"));
        // A damaged datagram is counted once, not again as a missing number.
        assert_eq!(proof.check(&datagram(15), &ABOUT), None);
    }

    #[test]
    fn a_loss_of_unknown_extent_explains_any_jump() {
        let mut proof = Proof::new();
        proof.check(&datagram(0), &ABOUT);
        proof.told(&Gap { cause: Cause::Upstream { layer: Layer::Kernel, exact: false }, ..lapped(1) });
        assert_eq!(proof.check(&datagram(9), &ABOUT), None);
        assert!(proof.holds());
    }

    #[test]
    fn gaps_are_told_with_count_place_and_cause() {
        let gap = Gap { first: 100, bytes: Some(64 << 10), ..lapped(4005) };
        assert_eq!(gap_words(&gap), "lost 4005 datagrams [seq 100..4104] (64 KiB), reader was lapped");
        let gap = Gap { cause: Cause::Upstream { layer: Layer::Device, exact: false }, ..gap };
        assert_eq!(gap_words(&gap), "lost at least 4005 datagrams before seq 100, in the device");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
