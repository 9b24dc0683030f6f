//! A stream in an async task: sleeps in tokio's event loop.
//!
//! ```sh
//! cargo run -p ringweir --example tokio -- demo
//! ```

use ringweir::{Item, Options, Reader};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Reads until the stream ends; returns how many datagrams were delivered and lost.
async fn read(reader: Reader) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    #[allow(
        deprecated,
        reason = "sound here: the fd stays the same and open as long as the reader"
    )]
    let mut reader = AsyncFd::with_interest(reader, Interest::READABLE)?;
    let mut seen = 0u64;
    loop {
        match reader.get_mut().next()? {
            Item::Datagram(_) => {
                seen += 1;
                // Gives other tasks a turn, even if the stream never pauses.
                if seen.is_multiple_of(1024) {
                    tokio::task::yield_now().await;
                }
            }
            Item::Gap(_) | Item::Restarted(_) | Item::Demoted(_) => {}
            Item::Empty => {
                // Arm first: whatever comes after this makes the fd readable.
                if reader.get_mut().arm()? {
                    reader.readable().await?.clear_ready();
                }
            }
            Item::Ended(_) => {
                let account = reader.get_ref().account();
                return Ok((account.delivered, account.lost));
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: tokio STREAM")?;
    let reader = Options::new("tokio").attach(&name)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (delivered, lost) = runtime.block_on(read(reader))?;
    println!("{delivered} delivered, {lost} lost");
    Ok(())
}
