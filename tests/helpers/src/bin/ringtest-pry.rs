//! Tries every way to write to what a reader receives, and prints the kernel's answer to each.

use anyhow::{Context, bail};
use clap::Parser;
use ringweir_helpers::pry;
use ringweir_proto::control::{AttachRequest, Mode, Reply, Request};
use ringweir_proto::os::socket;
use rustix::fs::{FallocateFlags, Mode as Permissions, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Prints `what: way = ok` or the name of the error, a line for each way.
#[derive(Parser)]
struct Cli {
    /// Control socket
    socket: PathBuf,
    /// The ring's object under /dev/shm, if it has one
    #[arg(long)]
    object: Option<PathBuf>,
    /// Process id of the broker, whose memory and fds lead to the ring too
    #[arg(long)]
    broker: Option<u32>,
}

const PAGE: usize = 4096;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let attach =
        Request::Attach(AttachRequest { label: "pry".into(), mode: Mode::Lossy, parks: true });
    let (_reader, fds) = ask(&cli.socket, &attach)?;
    let [ring, page, wake, sleep_request] = &fds[..] else { bail!("{} fds", fds.len()) };
    let (_viewer, stats) = ask(&cli.socket, &Request::View)?;
    let stats = stats.first().context("no statistics")?;

    for (way, answer) in pry::try_attachment([ring, page, wake, sleep_request])
        .into_iter()
        .chain(pry::try_statistics(stats))
    {
        report(way, answer);
    }
    if let Ok(again) = pry::reopen(ring) {
        report("ring reopened: map writable", pry::map(&again, true));
        // The byte is read first, so that even a write that succeeds changes nothing.
        let mut byte = [0];
        rustix::io::pread(&again, &mut byte, 0)?;
        report("ring reopened: write", rustix::io::pwrite(&again, &byte, 0));
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A hole in the header's last bytes, which are zero.
        report(
            "ring reopened: punch a hole",
            rustix::fs::fallocate(&again, hole, PAGE as u64 - 8, 8),
        );
    }
    if let Some(object) = &cli.object {
        report("ring: open by name", rustix::fs::open(object, OFlags::RDWR, Permissions::empty()));
    }
    if let Some(broker) = cli.broker {
        report(
            "broker: open its memory",
            rustix::fs::open(format!("/proc/{broker}/mem"), OFlags::RDWR, Permissions::empty()),
        );
        report(
            "broker: look at its fds",
            rustix::fs::open(format!("/proc/{broker}/fd/0"), OFlags::RDONLY, Permissions::empty()),
        );
        report(
            "broker: look at its map",
            std::fs::read(format!("/proc/{broker}/maps")).map_err(errno),
        );
    }
    Ok(())
}

fn report<T>(way: &str, result: Result<T, Errno>) {
    let answer = match result {
        Ok(_) => "ok".into(),
        Err(Errno::ACCESS) => "EACCES".into(),
        Err(Errno::PERM) => "EPERM".into(),
        Err(Errno::BADF) => "EBADF".into(),
        Err(Errno::INVAL) => "EINVAL".into(),
        Err(other) => format!("{other:?}"),
    };
    println!("{way} = {answer}");
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

fn ask(path: &Path, request: &Request) -> anyhow::Result<(OwnedFd, Vec<OwnedFd>)> {
    let connection = socket::connect(path)?;
    socket::send(&connection, &request.encode(), &[])?;
    let packet = socket::receive(&connection)?;
    match Reply::decode(&packet.bytes)? {
        Reply::Refused(refusal) => bail!("{}", refusal.text),
        _ => Ok((connection, packet.fds)),
    }
}
