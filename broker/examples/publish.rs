//! Publishes a stream from a program's own data: here the load of this machine, ten times a second.
//!
//! ```sh
//! cargo run -p ringweir-broker --example publish -- load &
//! ringcat load -f raw
//! ```

use ringweir_broker::{Layer, Publisher};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: publish STREAM")?;
    let mut publisher = Publisher::builder(&name).max_datagram(128).depth(36_000).build()?;
    eprintln!("{}", publisher.summary());
    let (period, mut due) = (Duration::from_millis(100), Instant::now());
    loop {
        publisher.publish(std::fs::read_to_string("/proc/loadavg")?.as_bytes())?;
        due += period;
        // What was not measured in time is lost, and readers learn how much.
        let missed = Instant::now().saturating_duration_since(due).as_millis() / 100;
        if missed > 0 {
            publisher.lost(Layer::Device, missed as u64, true)?;
            due += period * missed as u32;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
