//! The datagrams of the bench's own publishers: sum-checked, in batches, as fast as possible or at
//! a rate.
//!
//! Contract: the same datagrams as those of `gen:check=sum`, made in the same way. At a rate the
//! publisher polls the clock and never sleeps, and datagram `n` is due at `start + n / rate`, even
//! if those before were late.

use super::job::{Go, Job, spin_until};
use ringweir_pattern::sum;
use ringweir_proto::os::clock;

/// Datagrams that are due at once, one after the other.
#[derive(Clone, Copy)]
pub struct Batch<'f> {
    /// All bytes.
    pub bytes: &'f [u8],
    size: usize,
}

impl<'f> Batch<'f> {
    /// One by one.
    pub fn datagrams(self) -> std::slice::ChunksExact<'f, u8> {
        self.bytes.chunks_exact(self.size)
    }
}

/// Makes datagrams.
pub struct Feed {
    go: Go,
    size: usize,
    batch: usize,
    step: Option<f64>,
    /// Number of the next datagram, which is also the number of datagrams made.
    pub made: u64,
    room: Vec<u8>,
}

impl Feed {
    /// A feed that begins with number 0.
    pub fn new(job: &Job, go: Go) -> Self {
        let batch = job.batch();
        let step = job.rate.map(|rate| 1e9 / rate);
        Self { go, size: job.size, batch, step, made: 0, room: vec![0; batch * job.size] }
    }

    /// Waits until something is due and makes it, a batch at most; `None` when the time is over.
    pub fn next_batch(&mut self) -> Option<Batch<'_>> {
        let count = self.due()?;
        let bytes = &mut self.room[..count * self.size];
        for (number, datagram) in (self.made..).zip(bytes.chunks_exact_mut(self.size)) {
            sum::fill(datagram, number, 0);
        }
        self.made += count as u64;
        Some(Batch { bytes, size: self.size })
    }

    /// Like [`Self::next_batch`], with one datagram whose bytes `read` reads from a device.
    pub fn next_from(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<&[u8]>> {
        if self.due().is_none() {
            return Ok(None);
        }
        let datagram = &mut self.room[..self.size];
        read(datagram)?;
        sum::renumber(datagram, self.made);
        self.made += 1;
        Ok(Some(datagram))
    }

    fn due(&mut self) -> Option<usize> {
        let now = match self.step {
            None => clock::monotonic_ns(),
            Some(step) => {
                let due = self.go.start + (self.made as f64 * step) as u64;
                // After the end it waits for nothing.
                if due >= self.go.end {
                    return None;
                }
                spin_until(due)
            }
        };
        (now < self.go.end).then_some(self.batch)
    }
}
