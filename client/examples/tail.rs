//! Prints a line for each datagram from now on: seq, length, channel and its first bytes.
//!
//! ```sh
//! cargo run -p ringweir --example tail -- demo
//! ```

use ringweir::{Item, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: tail STREAM")?;
    let mut reader = Options::new("tail").attach(&name)?;
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                let first = datagram.view(|payload| {
                    let mut first = [0; 8];
                    let n = payload.len().min(first.len());
                    payload.copy_to(0, &mut first[..n]);
                    (first, n)
                });
                // Torn: the next item is the gap that begins with this datagram.
                let Ok((first, n)) = first else { continue };
                let (seq, len, channel) = (datagram.seq(), datagram.len(), datagram.channel());
                println!("{seq} {len} bytes, channel {channel}: {:02x?}", &first[..n]);
            }
            Item::Gap(gap) => println!("lost {} from {} on: {:?}", gap.count, gap.first, gap.cause),
            Item::Restarted(restart) => println!("generation {}", restart.generation),
            Item::Demoted(_) => {}
            Item::Empty => {
                reader.wait(None)?;
            }
            Item::Ended(end) => {
                println!("ended: {end:?}");
                return Ok(());
            }
        }
    }
}
