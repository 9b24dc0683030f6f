//! One pipe per reader. The publisher writes a batch to each in turn. Lengths are known, so there
//! is no framing.

use crate::contender::{Contender, Publisher, publish_batches};
use crate::job::{Job, Report, ready};
use crate::tally::{Losses, Tally};
use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use std::io::{Read, Write};
use std::path::PathBuf;

pub const CONTENDER: Contender = Contender {
    name: "pipes",
    about: "a pipe of 1 MiB to each reader, one write a batch and reader, reads of up to 256 KiB; \
        datagrams told apart by their known length",
    publisher: Publisher::Process(publish),
    read,
    most: None,
    floor: false,
    unavailable: || None,
    polls: false,
};

fn path(job: &Job, reader: usize) -> PathBuf {
    job.dir.join(format!("p{reader}"))
}

fn publish(job: &Job) -> anyhow::Result<Report> {
    // Opened when there are readers, because opening a FIFO waits for its other end.
    let mut pipes = Vec::new();
    publish_batches(job, |batch| {
        if pipes.is_empty() {
            for n in 0..job.readers {
                let pipe = std::fs::File::options().write(true).open(path(job, n))?;
                rustix::pipe::fcntl_setpipe_size(&pipe, 1 << 20).context("F_SETPIPE_SZ")?;
                pipes.push(pipe);
            }
        }
        pipes.iter_mut().try_for_each(|pipe| pipe.write_all(batch.bytes)).context("write")
    })
}

fn read(job: &Job) -> anyhow::Result<Report> {
    let path = path(job, job.reader.unwrap_or(0));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )?;
    let pipe = rustix::fs::open(
        &path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let go = ready()?;
    let mut tally = Tally::new(job, go, Losses::None)?;
    rustix::fs::fcntl_setfl(&pipe, OFlags::empty())?;
    let mut pipe = std::fs::File::from(pipe);
    let mut room = vec![0; (256 << 10).max(job.size)];
    let mut filled = 0;
    // Until the publisher opens its end, reading the pipe gives end of file.
    let mut begun = false;
    loop {
        let got = pipe.read(&mut room[filled..])?;
        if got == 0 {
            anyhow::ensure!(filled == 0, "the pipe ended within a datagram");
            if begun {
                break;
            }
            std::thread::sleep(std::time::Duration::from_micros(200));
            continue;
        }
        begun = true;
        filled += got;
        let whole = filled - filled % job.size;
        room[..whole].chunks_exact(job.size).try_for_each(|datagram| tally.datagram(datagram))?;
        room.copy_within(whole..filled, 0);
        filled -= whole;
    }
    tally.close()
}
