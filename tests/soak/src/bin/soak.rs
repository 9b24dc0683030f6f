//! `soak`: every datagram is delivered or reported as lost, over as many datagrams as you like.
//! Ends in one verdict line.
//!
//! `ringd` makes CRC-checked datagrams as fast as it can. Readers in separate processes check every
//! byte that they receive, and that every missing number was reported as lost. One reader keeps up
//! as well as it can, one pauses, one is stopped and continued all the time; the last two are
//! lapped again and again. For each reader `delivered + lost = published`. Negative control:
//! `--miscount` makes a reader forget one gap; the verdict must then be FAIL.

use anyhow::{Context, bail, ensure};
use clap::Parser;
use ringweir::view::Viewer;
use ringweir::{Item, Options, Resume, Start};
use ringweir_cli::quantity::{Count, Span};
use ringweir_harness::{Environment, Process};
use ringweir_pattern::verify;
use ringweir_proto::stats::StreamFact;
use rustix::process::Signal;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Soak test: every datagram is delivered to each reader or reported as lost.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  soak --datagrams 1000000000 --size 64..512\n\nExit status: 0 PASS, 1 \
        FAIL."
)]
struct Cli {
    /// Datagrams to publish
    #[arg(long, default_value_t = 100_000_000)]
    datagrams: u64,
    /// Size of each, or a range
    #[arg(long, default_value = "24..128")]
    size: String,
    /// Negative control: forget one gap; the verdict must be FAIL
    #[arg(long)]
    miscount: bool,
    /// (internal) be a reader of this stream
    #[arg(long, hide = true)]
    be_reader: Option<Kind>,
    /// (internal) control socket
    #[arg(long, hide = true)]
    socket: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// As fast as it can; continues with the oldest datagram after a lap.
    Fast,
    /// Pauses now and then for longer than the ring holds; continues with the newest.
    Slow,
    /// Stopped and continued from outside.
    Stopped,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match (cli.be_reader, &cli.socket) {
        (Some(kind), Some(socket)) => read(kind, socket, cli.miscount),
        _ => soak(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("soak: FAIL: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// One reader: checks everything, prints its account as one line.
fn read(kind: Kind, socket: &str, miscount: bool) -> anyhow::Result<()> {
    let resume = if kind == Kind::Slow { Resume::Newest } else { Resume::Oldest };
    let mut reader = Options::new(&format!("{kind:?}").to_lowercase())
        .start(Start::Seq(0))
        .resume(resume)
        .attach(socket)?;
    let mut buffer = vec![0; reader.geometry().max_datagram() as usize];
    let (mut next, mut delivered, mut lost, mut gaps, mut torn) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let mut forget = miscount;
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                let seq = datagram.seq();
                let Ok(len) = datagram.copy_to(&mut buffer) else {
                    torn += 1;
                    continue;
                };
                ensure!(seq == next, "seq {seq} follows {next} without a gap");
                let header = verify::check(&buffer[..len]).with_context(|| format!("seq {seq}"))?;
                ensure!(header.number == seq, "seq {seq} carries datagram {}", header.number);
                (next, delivered) = (seq + 1, delivered + 1);
                if kind == Kind::Slow && delivered.is_multiple_of(200_000) {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Item::Gap(gap) => {
                ensure!(gap.first == next && gap.count > 0, "gap {gap:?} where {next} was next");
                next += gap.count;
                gaps += 1;
                if !std::mem::take(&mut forget) {
                    lost += gap.count;
                }
            }
            Item::Empty => {
                reader.wait(None)?;
            }
            Item::Restarted(_) | Item::Demoted(_) => {
                bail!("the stream restarted, or the reader was demoted")
            }
            Item::Ended(_) => break,
        }
    }
    let account = *reader.account();
    ensure!(
        account.start + account.delivered + account.lost == reader.read_cursor(),
        "the library's account does not close: {account:?}"
    );
    ensure!(
        account.delivered == delivered,
        "the library counts {} delivered, the reader {delivered}",
        account.delivered
    );
    println!("{} {delivered} {lost} {gaps} {torn}", reader.read_cursor());
    Ok(())
}

struct ReaderProcess {
    kind: Kind,
    process: Process,
}

impl ReaderProcess {
    fn start(env: &Environment, kind: Kind, socket: &str, miscount: bool) -> Self {
        let mut command = env.command("soak");
        command.args(["--be-reader", &format!("{kind:?}").to_lowercase(), "--socket", socket]);
        if miscount {
            command.arg("--miscount");
        }
        command.stdout(Stdio::piped());
        Self { kind, process: env.start(command) }
    }

    /// Its account: cursor, delivered, lost, gaps, torn.
    fn account(self) -> anyhow::Result<[u64; 5]> {
        let output = self.process.output();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "reader {:?} ({}): {}",
            self.kind,
            output.status,
            said.trim()
        );
        let line = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<u64> =
            line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        numbers.try_into().map_err(|_| anyhow::anyhow!("reader {:?} printed {line:?}", self.kind))
    }
}

fn soak(cli: &Cli) -> anyhow::Result<()> {
    let env = Environment::new(Duration::from_secs(24 * 3600));
    let source = format!("gen:rate=max,size={},count={}", cli.size, cli.datagrams);
    // It lingers after the end, so that the last figures can be read.
    let broker = env.broker("soak", &source, &["--wait-readers", "3", "--linger", "3s"]);
    let socket = broker.path().to_string();
    let watch = Viewer::attach(&socket)?;
    let began = Instant::now();
    let mut readers = Vec::new();
    for kind in [Kind::Fast, Kind::Slow, Kind::Stopped] {
        readers.push(ReaderProcess::start(&env, kind, &socket, cli.miscount && kind == Kind::Slow));
    }
    // Stop and continue one reader until the stream ends; report progress now and then.
    let mut reported = Instant::now();
    let published = loop {
        readers[2].process.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(150));
        readers[2].process.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(350));
        let Some(snapshot) = watch.snapshot() else { continue };
        let published = snapshot.get(StreamFact::WriteCursor);
        if snapshot.get(StreamFact::Ended) == 1 || watch.hung_up() {
            break published;
        }
        if reported.elapsed() > Duration::from_secs(5) {
            reported = Instant::now();
            let rate = published as f64 / began.elapsed().as_secs_f64();
            let left = (cli.datagrams - published) as f64 / rate.max(1.0);
            let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::ZERO);
            eprintln!(
                "soak: {} of {}, {}/s, {} to go",
                Count(published),
                Count(cli.datagrams),
                Count(rate as u64),
                Span(left)
            );
        }
        for reader in &mut readers {
            if let Some(status) = reader.process.ended() {
                ensure!(
                    status.success(),
                    "reader {:?} ({status}): {}",
                    reader.kind,
                    reader.process.stderr().trim()
                );
            }
        }
    };
    let took = began.elapsed();
    ensure!(published == cli.datagrams, "published {published} of {}", cli.datagrams);
    let mut words = Vec::new();
    for reader in readers {
        let kind = reader.kind;
        let [cursor, delivered, lost, gaps, torn] = reader.account()?;
        ensure!(cursor == published, "{kind:?} ends at {cursor}, published {published}");
        ensure!(
            delivered + lost == published,
            "{kind:?}: delivered {delivered} + lost {lost} is not published {published}"
        );
        ensure!(
            kind == Kind::Fast || gaps > 0,
            "{kind:?} was never lapped, so the test proves nothing"
        );
        words.push(format!("{kind:?} {delivered} + {lost} in {gaps} gaps ({torn} torn)"));
    }
    println!(
        "soak: PASS: {published} published in {} ({}/s) = delivered + lost for each of {} readers: \
        {}",
        Span(took),
        Count((published as f64 / took.as_secs_f64()) as u64),
        words.len(),
        words.join("; ")
    );
    Ok(())
}
