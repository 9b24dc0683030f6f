//! What the device is, and what it makes.

use ringweir_cli::quantity::Rate;
use ringweir_device::{HAS_DATE, HAS_INTERRUPT, HAS_TIME, NotAFifo, REGISTERS_BYTES, Shape};
use ringweir_pattern::generate::Sizes;

/// The timestamp in its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceTime {
    /// None
    #[default]
    None,
    /// ns since the device began
    Counter,
    /// The date: ns since 1970
    Date,
}

impl DeviceTime {
    const fn features(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Counter => HAS_TIME,
            Self::Date => HAS_TIME | HAS_DATE,
        }
    }
}

/// A device.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Value of its register device_id.
    pub device_id: u32,
    /// Payload rate of all channels together; `None`: no pause at all.
    pub rate: Option<Rate>,
    /// Lengths of datagrams.
    pub sizes: Sizes,
    /// Datagrams back to back, at the same mean rate.
    pub burst: u32,
    /// Size of each FIFO.
    pub fifo_bytes: u32,
    /// How many FIFOs: they take turns.
    pub channels: u32,
    /// Chooses the sequence of lengths.
    pub seed: u64,
    /// The timestamp in its entries.
    pub time: DeviceTime,
    /// Whether it can interrupt.
    pub interrupts: bool,
    /// Whether it runs without a command to start.
    pub autostart: bool,
}

impl Spec {
    /// The description of the device in its registers.
    ///
    /// # Errors
    /// If there can be no such device.
    pub fn shape(&self) -> Result<Shape, NotAFifo> {
        let longest = u32::try_from(self.sizes.max()).unwrap_or(u32::MAX);
        let interrupts = if self.interrupts { HAS_INTERRUPT } else { 0 };
        let mut shape = Shape {
            device_id: self.device_id,
            features: interrupts | self.time.features(),
            fifo_offset: REGISTERS_BYTES as u32,
            fifo_bytes: self.fifo_bytes,
            max_datagram: longest,
            channels: self.channels,
            rate: 0,
        };
        // Before anything is computed from it: the values may be arbitrary.
        shape.check(u64::MAX)?;
        shape.rate = self.fifo_rate(&shape);
        Ok(shape)
    }

    /// Bytes per second through each FIFO, headers and padding included. The rate in the
    /// specification is that of the payload.
    fn fifo_rate(&self, shape: &Shape) -> u32 {
        let mean = |of: &dyn Fn(u32) -> u32| {
            let (min, max) = (self.sizes.min() as u32, self.sizes.max() as u32);
            let all = (min..=max).map(|len| u64::from(of(len))).sum::<u64>();
            all as f64 / f64::from(max - min + 1)
        };
        let entry = mean(&|len| shape.entry_bytes(len));
        let total = match self.rate {
            None => 0.0,
            Some(Rate::Datagrams(x)) => x * entry,
            Some(Rate::Bytes(x)) => x / mean(&|len| len) * entry,
        };
        // A float beyond u32 saturates.
        (total / f64::from(self.channels)).round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 Mbit/s of 128-byte datagrams, 2 KiB of FIFO.
    pub fn seed_case() -> Spec {
        Spec {
            device_id: 1,
            rate: Some("1Mbit/s".parse().unwrap()),
            sizes: "128".parse().unwrap(),
            burst: 1,
            fifo_bytes: 2048,
            channels: 1,
            seed: 0,
            time: DeviceTime::None,
            interrupts: true,
            autostart: false,
        }
    }

    #[test]
    fn rate_register_includes_headers() {
        let spec = seed_case();
        assert_eq!(spec.shape().unwrap().rate, 140_625);
        assert_eq!(Spec { channels: 2, ..spec }.shape().unwrap().rate, 70_313);
        let timed = Spec { time: DeviceTime::Date, ..spec };
        assert_eq!(timed.shape().unwrap().rate, 148_438);
        let counted =
            Spec { rate: Some(Rate::Datagrams(100.0)), sizes: "121..128".parse().unwrap(), ..spec };
        assert_eq!(counted.shape().unwrap().rate, 14_400);
        assert_eq!(Spec { rate: None, ..spec }.shape().unwrap().rate, 0);
    }

    #[test]
    fn impossible_devices_are_refused() {
        let spec = seed_case();
        assert!(Spec { fifo_bytes: 3000, ..spec }.shape().is_err());
        assert!(Spec { channels: 33, ..spec }.shape().is_err());
        assert!(Spec { sizes: "2040".parse().unwrap(), ..spec }.shape().is_err());
        assert!(Spec { sizes: "2032".parse().unwrap(), ..spec }.shape().is_ok());
    }
}
