//! The account of the device, which it prints at its end: one line of JSON on standard output.
//!
//! Contract: cumulative from the start of the program, through resets and through disappearing and
//! coming back. It closes: `produced = stored + lost + spoiled`, and `stored + spoiled = drained +
//! left + reset`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelAccount {
    /// Datagrams made.
    pub produced: u64,
    /// Of these, stored intact.
    pub stored: u64,
    /// Lost, because the FIFO was full.
    pub lost: u64,
    /// Payload bytes of the lost ones.
    pub lost_bytes: u64,
    /// Stored unreadable, on purpose.
    pub spoiled: u64,
    /// Numbers skipped on purpose; no datagram ever had them.
    pub skipped: u64,
    /// Entries whose room the consumer has given back, whether it read them or threw them away.
    pub drained: u64,
    /// Entries still in the FIFO.
    pub left: u64,
    /// Entries that were in the FIFO when the device was reset or disappeared.
    pub reset: u64,
    /// Hash of what was stored intact ([`super::Digest`]).
    pub crc32: String,
}

/// One kind of fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts {
    /// How often.
    pub times: u64,
    /// Datagrams that it stored unreadable.
    pub spoiled: u64,
    /// Intact entries that were in the FIFO when its index became wrong: the consumer may have read
    /// them before.
    pub stranded: u64,
}

/// The whole account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceAccount {
    /// Seconds since the program began.
    pub elapsed_s: f64,
    /// Seconds since it first ran.
    pub running_s: f64,
    /// Sums over the channels.
    pub produced: u64,
    /// Stored intact.
    pub stored: u64,
    /// Lost, because a FIFO was full.
    pub lost: u64,
    /// Still in a FIFO.
    pub left: u64,
    /// Per channel.
    pub channels: Vec<ChannelAccount>,
    /// Interrupts raised because data was stored; a consumer sees fewer, since they coalesce.
    pub interrupts: u64,
    /// Interrupts suppressed on purpose.
    pub interrupts_withheld: u64,
    /// Interrupts raised for nothing, on purpose.
    pub interrupts_stormed: u64,
    /// Times the doorbell was found rung.
    pub doorbells: u64,
    /// Times it reset itself.
    pub resets: u64,
    /// Consumers that were accepted.
    pub consumers: u64,
    /// Connections refused, because there was a consumer already.
    pub refused: u64,
    /// The latest that a datagram (or burst) was made after its time, in µs: the jitter of the
    /// machine that runs the model.
    pub late_max_us: f64,
    /// How often it fell behind by more than 1 ms.
    pub late_over_1ms: u64,
    /// Time given up because the model was behind by more than a second, in ms.
    pub forgiven_ms: f64,
    /// Injected faults, by name.
    pub faults: BTreeMap<String, FaultCounts>,
}

impl DeviceAccount {
    /// Whether the sums close.
    ///
    /// # Errors
    /// The sum that does not close, with the figures.
    pub fn check(&self) -> Result<(), String> {
        for (index, channel) in self.channels.iter().enumerate() {
            let c = channel;
            if c.produced != c.stored + c.lost + c.spoiled {
                return Err(format!(
                    "channel {index}: produced = stored + lost + spoiled does not hold: {c:?}"
                ));
            }
            if c.stored + c.spoiled != c.drained + c.left + c.reset {
                return Err(format!(
                    "channel {index}: stored + spoiled = drained + left + reset does not hold: \
                    {c:?}"
                ));
            }
        }
        let sum = |of: fn(&ChannelAccount) -> u64| self.channels.iter().map(of).sum::<u64>();
        let sums = (sum(|c| c.produced), sum(|c| c.stored), sum(|c| c.lost), sum(|c| c.left));
        if sums != (self.produced, self.stored, self.lost, self.left) {
            return Err(format!("the sums over the channels are {sums:?}: {self:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_that_do_not_close_are_found() {
        let channel = ChannelAccount {
            produced: 10,
            stored: 6,
            lost: 3,
            spoiled: 1,
            drained: 4,
            left: 2,
            reset: 1,
            ..Default::default()
        };
        let good = DeviceAccount {
            produced: 10,
            stored: 6,
            lost: 3,
            left: 2,
            channels: vec![channel],
            ..Default::default()
        };
        good.check().unwrap();
        let line = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<DeviceAccount>(&line).unwrap(), good);
        type Spoil = fn(&mut DeviceAccount);
        let wrong: [(Spoil, &str); 4] = [
            (|b| b.channels[0].produced += 1, "stored + lost + spoiled"),
            (|b| b.channels[0].spoiled -= 1, "stored + lost + spoiled"),
            (|b| b.channels[0].drained += 1, "drained + left + reset"),
            (|b| b.lost += 1, "sums"),
        ];
        for (spoil, says) in wrong {
            let mut device_account = good.clone();
            spoil(&mut device_account);
            let error = device_account.check().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
