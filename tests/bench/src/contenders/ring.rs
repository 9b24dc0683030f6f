//! The product: `ringd` publishes from its `gen:` source, readers use the client library and look
//! at datagrams in place.

use crate::contender::{Contender, Publisher};
use crate::job::{Inject, Job, Report, Wait, ready};
use crate::tally::{Losses, Tally};
use ringweir::{Item, Options, Payload, Start};
use ringweir_pattern::datagram::{Fault, Header, MIN_LEN};
use ringweir_pattern::sum::Sum;
use std::time::Duration;

/// The product.
pub const CONTENDER: Contender = Contender {
    name: "ring",
    about: "ringweir, lossy: ringd with gen:check=sum, readers sum each datagram piece by piece in \
        place (Datagram::view)",
    publisher: Publisher::Ringd,
    read,
    most: Some((16 << 20, "the ring's largest datagram")),
    floor: false,
    unavailable: || None,
    polls: true,
};

/// Bytes looked at in one go, in a private copy that stays in the nearest cache.
const PIECE: usize = 4096;

/// Room for a piece.
#[repr(align(64))]
pub struct Piece([u8; PIECE]);

impl Default for Piece {
    fn default() -> Self {
        Self([0; PIECE])
    }
}

/// One pass over a payload: its sum, and what its header says.
#[inline]
pub fn judge(payload: Payload<'_>, piece: &mut Piece, flip: bool) -> Result<Header, Fault> {
    let len = payload.len();
    let mut sum = Sum::default();
    let mut head = [0; MIN_LEN];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(PIECE);
        let bytes = &mut piece.0[..n];
        payload.copy_to(at, bytes);
        if at == 0 {
            if flip {
                bytes[n - 1] ^= 0x10;
            }
            head = *bytes.first_chunk().ok_or(Fault::TooShort { len })?;
        }
        sum.add(bytes);
        at += n;
    }
    sum.judge(&head, len)
}

fn read(job: &Job) -> anyhow::Result<Report> {
    let mut options = Options::new("ringbench").start(Start::Seq(0)).reattach(false);
    if job.wait == Wait::Spin {
        options = options.always_spin();
    } else if job.rate.is_some() {
        // A parked reader sleeps at once: it does not poll first.
        options = options.spin(Duration::ZERO);
    }
    let mut reader = options.attach(&job.ring_socket())?;
    let mut tally = Tally::new(job, ready()?, Losses::Reported)?;
    let mut piece = Piece::default();
    let spins_at_rate = job.wait == Wait::Spin && job.rate.is_some();
    let yields = job.wait == Wait::Spin && !job.polls_alone();
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                if datagram.seq() == 0 {
                    tally.scheduled_from(datagram.publish_time());
                }
                let planted = tally.planted();
                let Ok(judged) = datagram
                    .view(|payload| judge(payload, &mut piece, planted == Some(Inject::Flip)))
                else {
                    continue; // torn: the gap that follows begins with it
                };
                let header = judged?;
                anyhow::ensure!(
                    header.number == datagram.seq(),
                    "seq {} carries {}",
                    datagram.seq(),
                    header.number
                );
                match planted {
                    Some(Inject::Drop) => continue,
                    Some(Inject::Dup) => tally.right(&header)?,
                    _ => {}
                }
                tally.right(&header)?;
            }
            Item::Gap(gap) => tally.lost(gap.first, gap.count)?,
            // Lowest latency: look again at once.
            Item::Empty if spins_at_rate => std::hint::spin_loop(),
            Item::Empty => {
                tally.look();
                if yields {
                    rustix::thread::sched_yield();
                } else {
                    reader.wait(Some(Duration::from_millis(200)))?;
                }
            }
            Item::Restarted(_) | Item::Demoted(_) => anyhow::bail!("the stream began anew"),
            Item::Ended(_) => break,
        }
    }
    let account = *reader.account();
    let report = tally.close()?;
    anyhow::ensure!(
        (account.delivered, account.lost) == (report.delivered, report.lost),
        "the library counts {} delivered and {} lost, the bench {} and {}",
        account.delivered,
        account.lost,
        report.delivered,
        report.lost
    );
    Ok(report)
}
