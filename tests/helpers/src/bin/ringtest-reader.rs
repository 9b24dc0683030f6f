//! A reader for tests: it attaches, checks every byte and every seq, keeps its own account, and
//! reports it.

#![allow(unsafe_code)]

use clap::{Parser, ValueEnum};
use ringweir::{Cause, End, Error, Item, Options, Reader, Resume, Start};
use ringweir_helpers::mailbox::{Live, Mailbox, Report, Slot};
use ringweir_pattern::verify;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Cli {
    /// Stream
    name: String,
    #[arg(long)]
    mailbox: String,
    #[arg(long, default_value_t = 0)]
    slot: usize,
    #[arg(long, default_value = "reader")]
    label: String,
    #[arg(long, value_enum, default_value_t = From::Start)]
    from: From,
    #[arg(long, value_enum, default_value_t = Goes::Oldest)]
    resume: Goes,
    /// Look at the payload in place instead of copying it out
    #[arg(long)]
    view: bool,
    #[arg(long)]
    spin: bool,
    #[arg(long)]
    lossless: bool,
    /// Pause after each datagram, in µs
    #[arg(long, default_value_t = 0)]
    slow: u64,
    /// End after this many datagrams
    #[arg(long)]
    limit: Option<u64>,
    /// Wait at the gate after attaching
    #[arg(long)]
    gate: bool,
    #[arg(long)]
    no_reattach: bool,
    /// Numbers are not seqs: the source does not count from 0
    #[arg(long)]
    any_number: bool,
    /// Negative control: report something wrong
    #[arg(long, value_enum)]
    spoil: Option<Spoil>,
    /// Read this many datagrams with all system calls but read and write forbidden, then exit
    #[arg(long)]
    strict: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum From {
    /// Seq 0: datagrams that are gone already are a gap
    Start,
    Oldest,
    Latest,
}

#[derive(Clone, Copy, ValueEnum)]
enum Goes {
    Oldest,
    Newest,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Spoil {
    /// Flip a bit of a datagram before it is checked
    Bit,
    /// Forget a datagram
    Count,
    /// Forget a gap
    Gap,
    /// Make one system call where none is allowed
    Syscall,
}

fn main() {
    let cli = Cli::parse();
    let mailbox = Mailbox::open(&cli.mailbox);
    let slot = mailbox.slot(cli.slot);
    let mut options = Options::new(&cli.label).reattach(!cli.no_reattach);
    options = match cli.from {
        From::Start => options.start(Start::Seq(0)),
        From::Oldest => options.start(Start::Oldest),
        From::Latest => options.start(Start::Latest),
    };
    if matches!(cli.resume, Goes::Newest) {
        options = options.resume(Resume::Newest);
    }
    if cli.lossless {
        options = options.lossless();
    }
    if cli.spin {
        options = options.always_spin();
    }
    let mut reader = attach(&options, &cli.name);
    slot.show(Live::Attached, 1);
    if cli.gate {
        mailbox.pass_gate();
    }
    if let Some(count) = cli.strict {
        strict(&mut reader, count, cli.spoil == Some(Spoil::Syscall));
    }
    let report = read(&cli, &mut reader, slot);
    slot.put(&report);
}

/// Attaches. The index of a reader that was just killed becomes free a moment later.
fn attach(options: &Options, name: &str) -> Reader {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        match options.attach(name) {
            Ok(reader) => return reader,
            Err(Error::Refused { reason: ringweir::Reason::Full, .. })
                if Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => {
                eprintln!("ringtest-reader: {e}");
                std::process::exit(1);
            }
        }
    }
}

fn read(cli: &Cli, reader: &mut Reader, slot: Slot<'_>) -> Report {
    let mut buffer = vec![0u8; reader.geometry().max_datagram() as usize];
    let mut own = Report { written: 1, ..Report::default() };
    let mut expected = reader.account().start;
    // The generator counts from 0 in each generation.
    let mut first = 0;
    let mut spoil = cli.spoil;
    let mut spoiled = |what: Spoil| spoil.take_if(|s| *s == what).is_some();
    own.end = loop {
        if cli.limit.is_some_and(|n| own.own_right + own.own_wrong >= n) {
            break 3;
        }
        if slot.live(Live::Stop) != 0 {
            break 4;
        }
        match reader.next().unwrap_or_else(|e| panic!("{e}")) {
            Item::Datagram(mut datagram) => {
                let (seq, len, channel) = (datagram.seq(), datagram.len(), datagram.channel());
                let whole = if cli.view {
                    datagram.view(|payload| payload.copy_to(0, &mut buffer[..len])).is_ok()
                } else {
                    datagram.copy_to(&mut buffer).is_ok()
                };
                if !whole {
                    own.own_torn += 1;
                    continue;
                }
                own.own_disorder += u64::from(seq != expected);
                expected = seq + 1;
                if spoiled(Spoil::Bit) {
                    buffer[len / 2] ^= 4;
                }
                match verify::check(&buffer[..len]) {
                    Ok(h)
                        if (cli.any_number || h.number == seq - first) && h.channel == channel =>
                    {
                        own.own_right += 1
                    }
                    other => {
                        own.own_wrong += 1;
                        eprintln!("ringtest-reader: seq {seq}: {other:?}");
                    }
                }
                if !spoiled(Spoil::Count) {
                    own.own_delivered += 1;
                }
                slot.show(Live::Delivered, own.own_right);
                if cli.slow > 0 {
                    std::thread::sleep(Duration::from_micros(cli.slow));
                }
            }
            Item::Gap(gap) if gap.cause == Cause::Lapped => {
                own.own_disorder += u64::from(gap.first != expected);
                expected = gap.first + gap.count;
                if own.first_gap_count == 0 {
                    (own.first_gap_first, own.first_gap_count) = (gap.first, gap.count);
                }
                if !spoiled(Spoil::Gap) {
                    own.own_lost += gap.count;
                }
            }
            Item::Gap(gap) => panic!("nothing is lost before the ring here: {gap:?}"),
            Item::Restarted(restart) => {
                own.restarts += 1;
                own.earlier_cursor = expected;
                own.own_disorder += u64::from(restart.adopted && restart.first != expected);
                if restart.adopted {
                    first = restart.first;
                } else {
                    (own.own_lost, own.own_delivered, first) = (0, 0, 0);
                }
                expected = restart.first;
                slot.show(Live::Restarts, own.restarts);
            }
            Item::Demoted(_) => own.demotions += 1,
            Item::Empty => {
                let _settled = reader.release().unwrap_or_else(|e| panic!("{e}"));
                reader.wait(None).unwrap_or_else(|e| panic!("{e}"));
            }
            Item::Ended(End::BrokerGone) => break 2,
            Item::Ended(End::Detached(_)) => break 3,
            Item::Ended(_) => break 1,
        }
    };
    if let Some(gap) = reader.release().unwrap_or_else(|e| panic!("{e}")) {
        own.own_lost += gap.count;
    }
    let account = reader.account();
    Report {
        start: account.start,
        delivered: account.delivered,
        lost: account.lost,
        gaps: account.gaps,
        cursor: reader.read_cursor(),
        bytes_delivered: account.bytes_delivered,
        bytes_lost: account.bytes_lost,
        generation: reader.generation(),
        ..own
    }
}

/// Reads under a seccomp filter: the kernel kills (SIGSYS) a process that makes any system call but
/// read, write, exit. The kernel's strict mode is no alternative: it also forbids reading the
/// clock, which a reader does once per millisecond.
fn strict(reader: &mut Reader, count: u64, spoil: bool) -> ! {
    let mut buffer = vec![0u8; reader.geometry().max_datagram() as usize];
    let op = |code: u32, jt, k| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let (load, equal, end) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET,
    );
    let mut filter = [
        op(load, 0, 0),
        op(equal, 3, libc::SYS_read as u32),
        op(equal, 2, libc::SYS_write as u32),
        op(equal, 1, libc::SYS_exit as u32),
        op(end, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(end, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0, "no_new_privs");
    // SAFETY: the program and its filter are live. From here on, only system calls that the filter
    // allows are made.
    let rc =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(rc, 0, "seccomp");
    let mut right = 0;
    while right < count {
        match reader.next() {
            Ok(Item::Datagram(mut datagram)) => {
                let seq = datagram.seq();
                if let Ok(len) = datagram.copy_to(&mut buffer)
                    && verify::check(&buffer[..len]).is_ok_and(|h| h.number == seq)
                {
                    right += 1;
                }
            }
            _ => break,
        }
        if spoil && right == count / 2 {
            // SAFETY: getppid has no arguments and cannot fail.
            unsafe { libc::getppid() };
        }
    }
    let status = i32::from(right != count);
    // SAFETY: exit alone, of the only thread: exit_group is not allowed.
    unsafe { libc::syscall(libc::SYS_exit, status) };
    unreachable!("exited")
}
