//! Ends the live screen although the thread that draws it is stuck.
//!
//! Contract: a terminal that is gone, or that takes no output, can hold that thread for ever: in a
//! write, or in the terminal library, which reads the end of a terminal that has hung up again and
//! again. So a thread of its own watches the terminal and the stop flag. It asks for the end
//! through that flag first, and ends the process if that takes longer than [`GRACE`].

use ratatui::crossterm::terminal::disable_raw_mode;
use ringweir_cli::stdout;
use ringweir_proto::os::event::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the screen may take for its own end.
const GRACE: Duration = Duration::from_secs(1);

/// How often the stop flag is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Leaves the alternate screen and shows the cursor.
const LEAVE: &[u8] = b"\x1b[?1049l\x1b[?25h";

/// Watches standard output, which is the terminal, until the process ends.
pub(super) fn start(stop: Arc<AtomicBool>) -> std::io::Result<()> {
    let watch = move || {
        let terminal = std::io::stdout();
        while !stop.load(Ordering::Relaxed) {
            // A hang-up is always reported, whatever is asked for.
            let mut fds = [PollFd::new(&terminal, PollFlags::empty())];
            if poll(&mut fds, Some(&timespec(LOOK))).is_ok() && !fds[0].revents().is_empty() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        std::thread::sleep(GRACE);
        // The other thread may be in the middle of a write, and hold the lock of standard output.
        let _gone = disable_raw_mode();
        let now = Duration::ZERO;
        let mut fds = [PollFd::new(&terminal, PollFlags::OUT)];
        if poll(&mut fds, Some(&timespec(now))).is_ok() && fds[0].revents() == PollFlags::OUT {
            let _gone = stdout::write_all(&terminal, LEAVE);
        }
        std::process::exit(1);
    };
    std::thread::Builder::new().name("keeper".into()).spawn(watch).map(drop)
}
