//! Words from the pump to the people: a bounded queue that never allocates, blocks or fails.
//!
//! Contract: the pump pushes, the control thread drains and logs, some lines a second and stream
//! ([`RateLimit`]). What does not fit or is too much is dropped and its number told.

use std::fmt::{Display, Write};
use std::time::Instant;

/// Notices a stream may have waiting.
const QUEUE: usize = 64;

/// One line, cut at 200 bytes.
#[derive(Clone, Copy)]
pub struct Notice {
    text: [u8; 200],
    len: usize,
    /// Notices dropped before this one because the queue was full.
    dropped: u64,
}

impl Notice {
    /// Formats without allocating.
    pub fn new(text: impl Display) -> Self {
        struct Cut<'a>(&'a mut Notice);
        impl Write for Cut<'_> {
            fn write_str(&mut self, s: &str) -> std::fmt::Result {
                let room = self.0.text.len() - self.0.len;
                let n = s.floor_char_boundary(room.min(s.len()));
                self.0.text[self.0.len..self.0.len + n].copy_from_slice(&s.as_bytes()[..n]);
                self.0.len += n;
                if n < s.len() { Err(std::fmt::Error) } else { Ok(()) }
            }
        }
        let mut notice = Notice { text: [0; 200], len: 0, dropped: 0 };
        // An error says that the text was cut, which is what the limit is for.
        let _cut = write!(Cut(&mut notice), "{text}");
        notice
    }
}

impl Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text[..self.len]))?;
        if self.dropped > 0 {
            write!(f, " ({} like it not shown)", self.dropped)?;
        }
        Ok(())
    }
}

/// Lines of a stream in a row, and a second after that.
const BURST: f64 = 50.0;
const PER_SECOND: f64 = 5.0;

/// Lets so many lines through, and counts the rest.
pub struct RateLimit {
    left: f64,
    at: Instant,
    hidden: u64,
}

impl RateLimit {
    /// With a whole burst to say.
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, at: now, hidden: 0 }
    }

    /// Whether another line may be said.
    pub fn pass(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * PER_SECOND).min(BURST);
        self.at = now;
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }

    /// The notice, if it may be said; it tells of those that were not.
    pub fn notice(&mut self, mut notice: Notice, now: Instant) -> Option<Notice> {
        notice.dropped += std::mem::take(&mut self.hidden);
        if self.pass(now) {
            return Some(notice);
        }
        self.hidden = notice.dropped + 1;
        None
    }

    /// How many nobody was told of; forgets them.
    pub fn rest(&mut self) -> u64 {
        std::mem::take(&mut self.hidden)
    }
}

/// The pump's end.
pub struct Notices {
    queue: rtrb::Producer<Notice>,
    dropped: u64,
}

impl Notices {
    /// Both ends of a queue.
    pub fn queue() -> (Self, rtrb::Consumer<Notice>) {
        let (queue, drain) = rtrb::RingBuffer::new(QUEUE);
        (Self { queue, dropped: 0 }, drain)
    }

    /// Queues a notice, or counts it if there is no room.
    pub fn push(&mut self, mut notice: Notice) {
        notice.dropped = self.dropped;
        match self.queue.push(notice) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_notice_is_cut_and_a_flood_is_counted() {
        assert_eq!(Notice::new("ü".repeat(300)).to_string(), "ü".repeat(100));
        let (mut notices, mut drain) = Notices::queue();
        for i in 0..QUEUE + 5 {
            notices.push(Notice::new(i));
        }
        assert_eq!(drain.pop().unwrap().to_string(), "0");
        notices.push(Notice::new("after"));
        let last = std::iter::from_fn(|| drain.pop().ok()).last().unwrap();
        assert_eq!(last.to_string(), "after (5 like it not shown)");
    }

    /// What is shown and what is said not to be shown add up. Control: as many lines as are allowed
    /// all come.
    #[test]
    fn a_flood_is_thinned_and_every_line_is_accounted_for() {
        let start = Instant::now();
        let mut rate_limit = RateLimit::new(start);
        let told = |rate_limit: &mut RateLimit, count: u64, at: u64| {
            let now = start + std::time::Duration::from_secs(at);
            let notices = (0..count).filter_map(|i| rate_limit.notice(Notice::new(i), now));
            notices.map(|n| (1, n.dropped)).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
        };
        assert_eq!(told(&mut rate_limit, 50, 0), (50, 0), "control");
        assert_eq!(told(&mut rate_limit, 1000, 0), (0, 0));
        assert_eq!(told(&mut rate_limit, 100, 2), (10, 1000));
        assert_eq!((rate_limit.rest(), rate_limit.rest()), (90, 0));
    }
}
