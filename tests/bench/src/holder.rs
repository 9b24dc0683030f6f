//! A process that holds many readers, asleep or awake, for the question of what a publish costs.

use crate::contenders::ring::{Piece, judge};
use crate::job::{Job, Report, Wait, ready, sleep_until};
use anyhow::{Context, ensure};
use ringweir::{Item, Options, Reader, Start};
use ringweir_proto::os::clock;
use rustix::event::{Timespec, epoll};

/// Name of the job that holds several readers.
pub const HOLDER: &str = "holder";
/// Readers that one process holds.
pub const PER_PROCESS: usize = 64;
/// Datagrams per second that sleeping readers are woken for.
pub const SLEEPERS_RATE: f64 = 20.0;

/// Holds readers until the time is over; those that read check what they receive.
pub fn hold(job: &Job) -> anyhow::Result<Report> {
    let socket = job.ring_socket();
    let mut options = Options::new("holder").start(Start::Latest).reattach(false).prefault(false);
    if job.wait == Wait::Spin {
        options = options.always_spin();
    }
    let mut readers =
        (0..job.readers).map(|_| options.attach(&socket)).collect::<Result<Vec<_>, _>>()?;
    if job.wait == Wait::Spin {
        let go = ready()?;
        sleep_until(go.end + 50_000_000);
        return Ok(Report::default());
    }
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (n, reader) in readers.iter_mut().enumerate() {
        epoll::add(&poll, &*reader, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN)?;
    }
    let mut piece = Piece::default();
    let mut drained = 0;
    for reader in &mut readers {
        drained += drain(reader, &mut piece)?;
    }
    let go = ready()?;
    let mut delivered = drained;
    let mut events = Vec::with_capacity(PER_PROCESS);
    while clock::monotonic_ns() < go.end + 50_000_000 {
        events.clear();
        let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&limit))?;
        for event in &events {
            let reader = &mut readers[event.data.u64() as usize];
            let seen = drain(reader, &mut piece)?;
            if clock::monotonic_ns() >= go.begin {
                delivered += seen;
            }
        }
    }
    Ok(Report { delivered, ..Report::default() })
}

/// Reads what there is, then goes to sleep.
fn drain(reader: &mut Reader, piece: &mut Piece) -> anyhow::Result<u64> {
    let mut delivered = 0;
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                let seq = datagram.seq();
                let header =
                    datagram.view(|payload| judge(payload, piece, false)).context("torn")??;
                ensure!(header.number == seq, "seq {seq} carries {}", header.number);
                delivered += 1;
            }
            Item::Gap(gap) => {
                anyhow::bail!("lapped at {SLEEPERS_RATE} datagrams a second: {gap:?}")
            }
            Item::Empty => {
                if reader.arm()? {
                    return Ok(delivered);
                }
            }
            Item::Restarted(_) | Item::Demoted(_) | Item::Ended(_) => return Ok(delivered),
        }
    }
}
