//! Reads a stream of CRC-checked datagrams from the oldest to the end, and prints what it received
//! as one line of JSON.

use anyhow::ensure;
use ringweir::{Options, Start};
use ringweir_helpers::listener::listen;

fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    ensure!(names.len() == 1, "usage: ringtest-listener STREAM");
    let mut reader =
        Options::new("listener").start(Start::Oldest).reattach(true).attach(&names[0])?;
    println!("{}", serde_json::to_string(&listen(&mut reader)?)?);
    Ok(())
}
