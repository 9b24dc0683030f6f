//! A reader of what a device sent: it hears the stream to its end, and writes down per channel what
//! came and what it was told.
//!
//! Contract: takes nothing for granted: every byte is checked, every seq, and each channel's own
//! numbers; only in books of its own, which are to be compared with the device's.

use ringweir::{Cause, End, Error, Gap, Item, Layer, Reader};
use ringweir_device_model::Digest;
use ringweir_pattern::verify::Verifier;
use serde::{Deserialize, Serialize};

/// One channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Datagrams that came.
    pub delivered: u64,
    /// Of these, not as they were made, or of another channel.
    pub wrong: u64,
    /// Numbers jumped over.
    pub missing: u64,
    /// Numbers that came again, without the device having been away.
    pub repeated: u64,
    /// Hash of what came ([`Digest`]).
    pub crc32: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// Datagrams that came.
    pub delivered: u64,
    /// Told as lost by the device, exactly.
    pub device: u64,
    /// Told as lost by the broker, exactly.
    pub broker: u64,
    /// Told as lost by restarts, exactly: in a dead broker's hands, or by the device while there
    /// was none.
    pub restart: u64,
    /// Told as lost at least, and by the kernel.
    pub inexact: u64,
    /// Lapped over.
    pub lapped: u64,
    /// Times it was told that the source is gone.
    pub gone: u64,
    /// New generations.
    pub restarts: u64,
    /// Seqs that were not the ones that had to come.
    pub disorder: u64,
    /// Whether the stream ended in order.
    pub ended: bool,
    /// By number.
    pub channels: Vec<Heard>,
}

#[derive(Default)]
struct Ear {
    verifier: Verifier,
    digest: Digest,
    heard: Heard,
}

impl Ear {
    /// What the verifier knows goes into the books; numbers may begin anew.
    fn turn_page(&mut self) {
        let Verifier { bad, missing, repeated, .. } = std::mem::take(&mut self.verifier);
        self.heard.wrong += bad;
        self.heard.missing += missing;
        self.heard.repeated += repeated;
    }
}

/// Hears `reader`'s stream to its end.
///
/// # Errors
/// What the library says.
pub fn listen(reader: &mut Reader) -> Result<Story, Error> {
    let mut buffer = vec![0u8; reader.geometry().max_datagram() as usize];
    let mut story = Story::default();
    let mut ears: Vec<Ear> = Vec::new();
    let mut expected = reader.account().start;
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                let (seq, channel) = (datagram.seq(), datagram.channel());
                let Ok(len) = datagram.copy_to(&mut buffer) else { continue };
                story.disorder += u64::from(seq != expected);
                expected = seq + 1;
                if ears.len() <= channel.into() {
                    ears.resize_with(usize::from(channel) + 1, Ear::default);
                }
                let ear = &mut ears[usize::from(channel)];
                let payload = &buffer[..len];
                ear.heard.delivered += 1;
                ear.digest.add(payload);
                let header = ear.verifier.accept(payload);
                ear.heard.wrong += u64::from(header.is_ok_and(|header| header.channel != channel));
            }
            Item::Gap(Gap { first, count, cause, .. }) => match cause {
                Cause::Lapped => {
                    story.disorder += u64::from(first != expected);
                    expected = first + count;
                    story.lapped += count;
                }
                Cause::Upstream { layer: Layer::Device, exact: true } => story.device += count,
                Cause::Upstream { layer: Layer::Broker, exact: true } => story.broker += count,
                Cause::Upstream { .. } => story.inexact += count,
                Cause::SourceGone => {
                    story.disorder += u64::from(first != expected);
                    story.gone += 1;
                    ears.iter_mut().for_each(Ear::turn_page);
                }
            },
            Item::Restarted(restart) => {
                story.restarts += 1;
                story.disorder += u64::from(restart.adopted && restart.first != expected);
                expected = restart.first;
                if restart.exact {
                    story.restart += restart.lost;
                } else {
                    story.inexact += restart.lost;
                }
            }
            Item::Demoted(_) => panic!("it is lossy"),
            Item::Empty => {
                reader.wait(None)?;
            }
            Item::Ended(end) => {
                story.ended = end == End::Stream;
                break;
            }
        }
    }
    story.channels = ears
        .into_iter()
        .map(|mut ear| {
            ear.turn_page();
            Heard { crc32: ear.digest.hex(), ..ear.heard }
        })
        .collect();
    story.delivered = story.channels.iter().map(|c| c.delivered).sum();
    Ok(story)
}
