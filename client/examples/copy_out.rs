//! Copies each datagram into one buffer and writes the bytes to standard output.
//!
//! ```sh
//! cargo run -p ringweir --example copy_out -- demo > demo.bin
//! ```

use ringweir::{Item, Options, Start};
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: copy_out STREAM")?;
    let mut reader = Options::new("copy_out").start(Start::Oldest).attach(&name)?;
    let mut buffer = Vec::new();
    let mut out = std::io::stdout().lock();
    loop {
        match reader.next()? {
            Item::Datagram(mut datagram) => {
                buffer.resize(datagram.len(), 0);
                // The buffer is large enough, so an error means torn: a gap comes next.
                if datagram.copy_to(&mut buffer).is_ok() {
                    out.write_all(&buffer)?;
                }
            }
            Item::Gap(gap) => eprintln!("lost {} from {} on", gap.count, gap.first),
            Item::Empty => {
                out.flush()?;
                reader.wait(None)?;
            }
            Item::Restarted(_) | Item::Demoted(_) => {}
            Item::Ended(_) => return Ok(()),
        }
    }
}
