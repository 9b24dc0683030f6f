//! The account over a long time, at random: overflow, garbage, restarted brokers, counters that
//! pass 2^32.
//!
//! Negative control: with one datagram more, the same account does not close.

use super::*;
use proptest::prelude::*;
use ringweir_device::Counters;

const CHANNELS: u32 = 3;
const WIDE: Shape = Shape { channels: CHANNELS, ..SHAPE };

/// The next event.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// `many` datagrams of length `len` on `channel`.
    Store { channel: u32, many: u32, len: usize },
    /// The broker drains the device.
    Drain,
    /// The mark or the length of the next entry of a channel is damaged, and the broker drains the
    /// device.
    Spoil { channel: u32, length: bool },
    /// A new broker takes over.
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let channel = 0..CHANNELS;
    let store = (channel.clone(), 1..40u32, 0..=512usize)
        .prop_map(|(channel, many, len)| Event::Store { channel, many, len });
    let spoil =
        (channel, any::<bool>()).prop_map(|(channel, length)| Event::Spoil { channel, length });
    let event =
        prop_oneof![4 => store, 4 => Just(Event::Drain), 2 => spoil, 1 => Just(Event::Restart)];
    prop::collection::vec(event, 1..80)
}

/// A device that has run for a long time, the broker that takes it over, and what readers got.
struct Play {
    model: Arc<DeviceModel>,
    feeds: Vec<Feed>,
    begun: Counters,
    device: Option<Device>,
    bench: Bench,
    delivered: u64,
    reported: u64,
    next: [u32; CHANNELS as usize],
}

fn take_over() -> Device {
    open_slot(512)
}

impl Play {
    /// A device whose counters are `below` before their wrap at 2^32.
    fn new(below: u32) -> Self {
        let model = DeviceModel::new(&WIDE);
        model.registers().status.status.store(ringweir_device::IS_RUNNING, Ordering::Release);
        let begun = Counters {
            producer: (8 * below).wrapping_neg(),
            produced: below.wrapping_neg(),
            lost: (below / 2).wrapping_neg(),
            lost_bytes: below.wrapping_neg(),
        };
        for channel in 0..CHANNELS {
            let registers = model.fifo(channel).registers;
            for (register, value) in [
                (&registers.producer, begun.producer),
                (&registers.consumer, begun.producer),
                (&registers.produced, begun.produced),
                (&registers.next_sequence, begun.produced),
                (&registers.lost, begun.lost),
                (&registers.lost_reported, begun.lost),
                (&registers.lost_bytes, begun.lost_bytes),
            ] {
                register.store(value, Ordering::Relaxed);
            }
        }
        SLOT.set(Some(model.clone()));
        Self {
            feeds: (0..CHANNELS).map(|_| Feed::at(&WIDE, begun)).collect(),
            begun,
            device: Some(take_over()),
            bench: Bench::new(1 << 20, 512),
            delivered: 0,
            reported: 0,
            next: [begun.produced; CHANNELS as usize],
            model,
        }
    }

    fn store(&mut self, channel: u32, len: usize) {
        let feed = &mut self.feeds[channel as usize];
        let mut payload = vec![channel as u8; len];
        if let Some(front) = payload.first_chunk_mut() {
            *front = feed.produced().to_le_bytes();
        }
        self.model.store(channel, feed, &payload, 0);
    }

    /// Drains the device, and checks that every datagram comes once, in order, on its channel, and
    /// whole.
    fn drain(&mut self) {
        for _ in 0..3 {
            let (got, _) = self.bench.run(self.device.as_mut().unwrap());
            self.bench.now += 100_000_000;
            for got in got {
                self.delivered += 1;
                self.reported += got.lost_before.iter().map(|l| l.1).sum::<u64>();
                assert!(
                    got.lost_before.iter().all(|l| l.2),
                    "every loss is exact: {:?}",
                    got.lost_before
                );
                let Some((sequence, rest)) = got.bytes.split_first_chunk() else { continue };
                let (sequence, next) =
                    (u32::from_le_bytes(*sequence), &mut self.next[usize::from(got.channel)]);
                assert!(
                    sequence.wrapping_sub(*next) < 1 << 31,
                    "channel {}: {sequence} before {next}",
                    got.channel
                );
                assert!(rest.iter().all(|b| *b == got.channel as u8));
                *next = sequence.wrapping_add(1);
            }
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Store { channel, many, len } => (0..many).for_each(|_| self.store(channel, len)),
            Event::Drain => self.drain(),
            Event::Spoil { channel, length } => {
                let fifo = self.model.fifo(channel);
                let at = fifo.registers.consumer.load(Ordering::Relaxed);
                if fifo.registers.producer.load(Ordering::Relaxed) != at {
                    let spoilt = if length { u64::from(MARK) | 600 << 32 } else { 7 };
                    fifo.words[at as usize / 8 % fifo.words.len()].store(spoilt, Ordering::Relaxed);
                    self.drain();
                }
            }
            Event::Restart => {
                // A new broker does not know of garbage skipped before, so it would report "at
                // least one".
                self.settle();
                (0..CHANNELS).for_each(|channel| self.store(channel, 100));
                self.device = None;
                self.device = Some(take_over());
            }
        }
    }

    /// Stores one more entry per channel, which shows how much was skipped before it.
    fn settle(&mut self) {
        self.drain();
        (0..CHANNELS).for_each(|channel| self.store(channel, 8));
        self.drain();
    }

    /// Ends the run. Returns datagrams produced, delivered, lost in the device and lost by the
    /// broker.
    fn end(&mut self) -> [u64; 4] {
        self.settle();
        let sum = |of: fn(Counters) -> u32, begun: u32| {
            self.feeds.iter().map(|f| u64::from(of(f.counters()).wrapping_sub(begun))).sum::<u64>()
        };
        let (device, broker) =
            (self.bench.count(PumpCounter::DeviceLost), self.bench.count(PumpCounter::BrokerLost));
        assert_eq!(
            sum(|c| c.lost, self.begun.lost),
            device,
            "the device's losses are reported as such"
        );
        assert_eq!(self.reported, device + broker, "what is counted is reported");
        [sum(|c| c.produced, self.begun.produced), self.delivered, device, broker]
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_account_closes_whatever_happens(below in 1..2000u32, events in events()) {
        let mut play = Play::new(below);
        events.iter().for_each(|event| play.happens(*event));
        let [produced, delivered, device, broker] = play.end();
        let all = delivered + device + broker;
        prop_assert_eq!(produced, all, "device {} broker {}", device, broker);
    }
}

/// All events at once, with certainty, and past 2^32 in every counter.
#[test]
fn the_account_closes_over_the_end_of_all_numbers() {
    let mut play = Play::new(20);
    for round in 0..40u32 {
        for channel in 0..CHANNELS {
            play.happens(Event::Store { channel, many: 30, len: (round * 37 % 200) as usize });
        }
        match round % 8 {
            3 => play.happens(Event::Spoil { channel: round % CHANNELS, length: round % 16 == 3 }),
            4 => play.happens(Event::Restart),
            _ => {}
        }
        play.happens(Event::Drain);
    }
    let [produced, delivered, device, broker] = play.end();
    assert!(delivered > 100 && device > 100 && broker > 0, "{delivered} {device} {broker}");
    assert_eq!(produced, delivered + device + broker);
    let fifo = play.model.fifo(0).registers;
    for register in [
        &fifo.producer,
        &fifo.produced,
        &fifo.lost,
        &fifo.lost_bytes,
        &fifo.consumer,
        &fifo.lost_reported,
    ] {
        assert!(register.load(Ordering::Relaxed) < 1 << 31, "it has passed 2^32");
    }
    // Control: one datagram that the broker does not get.
    play.feeds[0].store(play.model.fifo(0), &[0; 8], 0);
    let produced = u64::from(play.feeds[0].produced().wrapping_sub(play.begun.produced));
    assert_ne!(produced, u64::from(play.next[0].wrapping_sub(play.begun.produced)));
}
