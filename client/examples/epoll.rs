//! Several streams in one epoll loop; prints the account of each when all have ended.
//!
//! ```sh
//! cargo run -p ringweir --example epoll -- itch_a itch_b
//! ```

use ringweir::{Error, Item, Options, Reader};
use rustix::event::epoll;

/// Reads everything available. `false`: the stream has ended.
fn drain(reader: &mut Reader, bytes: &mut u64) -> Result<bool, Error> {
    loop {
        match reader.next()? {
            Item::Datagram(datagram) => *bytes += datagram.len() as u64,
            Item::Gap(_) | Item::Restarted(_) | Item::Demoted(_) => {}
            Item::Empty => return Ok(true),
            Item::Ended(_) => return Ok(false),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut readers = Vec::new();
    for (n, name) in std::env::args().skip(1).enumerate() {
        let reader = Options::new("epoll").attach(&name)?;
        epoll::add(&set, &reader, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN)?;
        readers.push(Some(reader));
    }
    let (mut bytes, mut left) = (0, readers.len());
    let mut events = Vec::with_capacity(left.max(1));
    while left > 0 {
        let mut sleep = true;
        for slot in &mut readers {
            let Some(reader) = slot else { continue };
            if drain(reader, &mut bytes)? {
                // Something may have come meanwhile; then the fd would stay silent, and `arm`
                // returns false.
                sleep &= reader.arm()?;
            } else {
                let account = reader.account();
                println!(
                    "{}: {} delivered, {} lost",
                    reader.name(),
                    account.delivered,
                    account.lost
                );
                *slot = None; // closes its fd, which removes it from the set
                left -= 1;
                sleep = false;
            }
        }
        if sleep {
            events.clear();
            epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), None)?;
        }
    }
    println!("{bytes} bytes");
    Ok(())
}
