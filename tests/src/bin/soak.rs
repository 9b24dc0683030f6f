//! `soak`: conservation over as many datagrams as you like, laps forced, one verdict line at the end.
//!
//! `ringd` makes numbered datagrams as fast as it can; readers in processes of their own check every byte of what they get
//! and that every number they did not get was told as lost. One reader keeps up as well as it can, one dawdles, one is
//! stopped and continued all the time; the two are lapped over and over. For each: `delivered + lost = published`.
//! Negative control: `--miscount` makes a reader forget one gap; the verdict must then be FAIL.

use anyhow::{Context, bail, ensure};
use clap::Parser;
use ringweir::{Options, Read, Resume, Start, Watch};
use ringweir_proto::numbered;
use ringweir_proto::quantity::{Count, Span};
use ringweir_proto::stats::StreamFact;
use ringweir_tests::{Broker, programs};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Soak test: every datagram delivered or told as lost, to every reader.
#[derive(Parser)]
#[command(after_help = "Example:\n  soak --datagrams 1000000000 --size 64..512\n\nExit status: 0 PASS, 1 FAIL.")]
struct Cli {
    /// Datagrams to publish
    #[arg(long, default_value_t = 100_000_000)]
    datagrams: u64,
    /// Size of each, or a range
    #[arg(long, default_value = "24..128")]
    size: String,
    /// Forget one gap, to see the verdict fail
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
    /// As fast as it can, goes on at the oldest after a lap.
    Fast,
    /// Pauses now and then for longer than the ring lasts, goes on at the newest.
    Slow,
    /// Is stopped and continued from outside.
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
    let mut reader =
        Options::new(&format!("{kind:?}").to_lowercase()).start(Start::Seq(0)).resume(resume).attach(socket)?;
    let mut buffer = vec![0; reader.geometry().max_datagram() as usize];
    let (mut next, mut delivered, mut lost, mut gaps, mut torn) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let mut forget = miscount;
    loop {
        match reader.next()? {
            Read::Datagram(mut datagram) => {
                let seq = datagram.seq();
                let Ok(len) = datagram.copy_to(&mut buffer) else {
                    torn += 1;
                    continue;
                };
                ensure!(seq == next, "seq {seq} follows {next} without a gap");
                let header = numbered::check(&buffer[..len]).with_context(|| format!("seq {seq}"))?;
                ensure!(header.number == seq, "seq {seq} carries datagram {}", header.number);
                (next, delivered) = (seq + 1, delivered + 1);
                if kind == Kind::Slow && delivered.is_multiple_of(200_000) {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Read::Gap(gap) => {
                ensure!(gap.first == next && gap.count > 0, "gap {gap:?} where {next} was next");
                next += gap.count;
                gaps += 1;
                if !std::mem::take(&mut forget) {
                    lost += gap.count;
                }
            }
            Read::Empty => reader.wait(None)?,
            Read::Restarted(_) => bail!("restarted"),
            Read::Ended(_) => break,
        }
    }
    let account = *reader.account();
    ensure!(
        account.start + account.delivered + account.lost == reader.read_cursor(),
        "the reader's own books: {account:?}"
    );
    ensure!(account.delivered == delivered, "books say {} delivered, seen {delivered}", account.delivered);
    println!("{} {delivered} {lost} {gaps} {torn}", reader.read_cursor());
    Ok(())
}

struct ReaderProcess {
    kind: Kind,
    child: Child,
}

impl ReaderProcess {
    fn start(kind: Kind, socket: &str, miscount: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--be-reader", &format!("{kind:?}").to_lowercase(), "--socket", socket]);
        if miscount {
            command.arg("--miscount");
        }
        Ok(Self { kind, child: command.stdout(Stdio::piped()).spawn()? })
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself in this moment.
        let _ended = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Its account: cursor, delivered, lost, gaps, torn.
    fn account(&mut self) -> anyhow::Result<[u64; 5]> {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "reader {:?} failed ({status})", self.kind);
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        numbers.try_into().map_err(|_| anyhow::anyhow!("reader {:?} said {line:?}", self.kind))
    }
}

impl Drop for ReaderProcess {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn soak(cli: &Cli) -> anyhow::Result<()> {
    programs::build();
    let source = format!("gen:rate=max,size={},count={}", cli.size, cli.datagrams);
    let broker = Broker::start("soak", &source, &["--wait-readers", "3", "--linger", "3s", "--quiet"]);
    let socket = broker.socket().to_string_lossy().into_owned();
    let watch = Watch::attach(&socket)?;
    let began = Instant::now();
    let mut readers = Vec::new();
    for kind in [Kind::Fast, Kind::Slow, Kind::Stopped] {
        readers.push(ReaderProcess::start(kind, &socket, cli.miscount && kind == Kind::Slow)?);
    }
    // Stop and continue one reader until the stream ends; say now and then how far it is.
    let mut said = Instant::now();
    let published = loop {
        readers[2].signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(150));
        readers[2].signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(350));
        let Some(snapshot) = watch.snapshot() else { continue };
        let published = snapshot.get(StreamFact::WriteCursor);
        if snapshot.get(StreamFact::Ended) == 1 || watch.hung_up() {
            break published;
        }
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
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
            if let Some(status) = reader.child.try_wait()? {
                ensure!(status.success(), "reader {:?} failed ({status})", reader.kind);
            }
        }
    };
    let took = began.elapsed();
    ensure!(published == cli.datagrams, "published {published} of {}", cli.datagrams);
    let mut words = Vec::new();
    for reader in &mut readers {
        let [cursor, delivered, lost, gaps, torn] = reader.account()?;
        ensure!(cursor == published, "{:?} ends at {cursor}, published {published}", reader.kind);
        ensure!(
            delivered + lost == published,
            "{:?}: delivered {delivered} + lost {lost} is not published {published}",
            reader.kind
        );
        ensure!(reader.kind == Kind::Fast || gaps > 0, "{:?} was never lapped: nothing was proved", reader.kind);
        words.push(format!("{:?} {delivered} + {lost} in {gaps} gaps, {torn} torn and told", reader.kind));
    }
    println!(
        "soak: PASS: {published} published in {} ({}/s) = delivered + lost for each of {} readers: {}",
        Span(took),
        Count((published as f64 / took.as_secs_f64()) as u64),
        readers.len(),
        words.join("; ")
    );
    Ok(())
}
