//! A reader of a device's stream: it reads to the end and counts per channel what was received and
//! what was reported as lost.
//!
//! Contract: checks every byte, every seq and the numbers of each channel. Its account is
//! independent of the library's; the test compares it with the device's.

use ringweir::{Cause, End, Error, Gap, Item, Layer, Reader};
use ringweir_device_model::Digest;
use ringweir_pattern::verify::Verifier;
use serde::{Deserialize, Serialize};

/// One channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelReceived {
    /// Datagrams received.
    pub delivered: u64,
    /// Of these, damaged or of another channel.
    pub wrong: u64,
    /// Missing numbers.
    pub missing: u64,
    /// Numbers that came twice although the device did not disappear.
    pub repeated: u64,
    /// Hash of what was received ([`Digest`]).
    pub crc32: String,
}

/// The whole stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReceived {
    /// Datagrams received.
    pub delivered: u64,
    /// Reported as lost by the device, exactly.
    pub device: u64,
    /// Reported as lost by the broker, exactly.
    pub broker: u64,
    /// Reported as lost by restarts, exactly: what a killed broker had taken, or what the device
    /// lost while there was no broker.
    pub restart: u64,
    /// Losses that were not reported exactly as the device's or the broker's, and those of the
    /// kernel.
    pub inexact: u64,
    /// Lost by being lapped.
    pub lapped: u64,
    /// Times the source was reported as gone.
    pub gone: u64,
    /// New generations.
    pub restarts: u64,
    /// Seqs that were not the expected ones.
    pub disorder: u64,
    /// Whether the stream ended normally.
    pub ended: bool,
    /// By channel number.
    pub channels: Vec<ChannelReceived>,
}

#[derive(Default)]
struct ChannelListener {
    verifier: Verifier,
    digest: Digest,
    received: ChannelReceived,
}

impl ChannelListener {
    /// Adds the verifier's counts; numbers may start again.
    fn add_numbers(&mut self) {
        let Verifier { bad, missing, repeated, .. } = std::mem::take(&mut self.verifier);
        self.received.wrong += bad;
        self.received.missing += missing;
        self.received.repeated += repeated;
    }
}

/// Reads `reader`'s stream to its end.
///
/// # Errors
/// The library's error.
pub fn listen(reader: &mut Reader) -> Result<StreamReceived, Error> {
    let mut buffer = vec![0u8; reader.geometry().max_datagram() as usize];
    let mut received = StreamReceived::default();
    let mut listeners: Vec<ChannelListener> = Vec::new();
    let mut expected = reader.account().start;
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                let (seq, channel) = (datagram.seq(), datagram.channel());
                let Ok(len) = datagram.copy_to(&mut buffer) else { continue };
                received.disorder += u64::from(seq != expected);
                expected = seq + 1;
                if listeners.len() <= channel.into() {
                    listeners.resize_with(usize::from(channel) + 1, ChannelListener::default);
                }
                let listener = &mut listeners[usize::from(channel)];
                let payload = &buffer[..len];
                listener.received.delivered += 1;
                listener.digest.add(payload);
                let header = listener.verifier.accept(payload);
                listener.received.wrong +=
                    u64::from(header.is_ok_and(|header| header.channel != channel));
            }
            Item::Gap(Gap { first, count, cause, .. }) => match cause {
                Cause::Lapped => {
                    received.disorder += u64::from(first != expected);
                    expected = first + count;
                    received.lapped += count;
                }
                Cause::Upstream { layer: Layer::Device, exact: true } => received.device += count,
                Cause::Upstream { layer: Layer::Broker, exact: true } => received.broker += count,
                Cause::Upstream { .. } => received.inexact += count,
                Cause::SourceGone => {
                    received.disorder += u64::from(first != expected);
                    received.gone += 1;
                    listeners.iter_mut().for_each(ChannelListener::add_numbers);
                }
            },
            Item::Restarted(restart) => {
                received.restarts += 1;
                received.disorder += u64::from(restart.adopted && restart.first != expected);
                expected = restart.first;
                if restart.exact {
                    received.restart += restart.lost;
                } else {
                    received.inexact += restart.lost;
                }
            }
            Item::Demoted(_) => panic!("a lossy reader was demoted"),
            Item::Empty => {
                reader.wait(None)?;
            }
            Item::Ended(end) => {
                received.ended = end == End::Stream;
                break;
            }
        }
    }
    received.channels = listeners
        .into_iter()
        .map(|mut listener| {
            listener.add_numbers();
            ChannelReceived { crc32: listener.digest.hex(), ..listener.received }
        })
        .collect();
    received.delivered = received.channels.iter().map(|c| c.delivered).sum();
    Ok(received)
}
