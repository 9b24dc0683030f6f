//! Reads without loss: the stream waits for this reader. Reports when the stream stops waiting.
//!
//! The broker must allow it: `ringd run --lossless 500ms …`.
//!
//! ```sh
//! cargo run -p ringweir --example lossless -- demo
//! ```

use ringweir::{Item, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: lossless STREAM")?;
    let mut reader = Options::new("lossless").lossless().attach(&name)?;
    loop {
        match reader.next()? {
            // A datagram in hand is not overwritten while the stream waits for this reader.
            Item::Datagram(mut datagram) => match datagram.to_vec() {
                Ok(bytes) => println!("{}: {} bytes", datagram.seq(), bytes.len()),
                Err(torn) => eprintln!("{torn}: only after it was demoted"),
            },
            Item::Demoted(_) => {
                eprintln!("the budget is used up: from now on this reader is lossy")
            }
            Item::Gap(gap) => {
                eprintln!("lost {} from {} on: {:?}", gap.count, gap.first, gap.cause)
            }
            Item::Restarted(_) => {}
            Item::Empty => {
                reader.wait(None)?;
            }
            Item::Ended(_) => break,
        }
    }
    println!("{:?}", reader.account());
    Ok(())
}
