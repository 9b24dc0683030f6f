//! Log texts from the pump to the control thread: a bounded queue that never allocates, blocks or
//! fails.
//!
//! Contract: the pump pushes, the control thread pops and logs. Notices that do not fit are dropped
//! and counted.

use std::fmt::{Display, Write};

/// Most notices of a stream in the queue.
const QUEUE: usize = 64;

/// One log line, cut at 200 bytes.
#[derive(Clone, Copy)]
pub struct Notice {
    text: [u8; 200],
    len: usize,
    /// Notices dropped before this one.
    hidden: u64,
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
        let mut notice = Notice { text: [0; 200], len: 0, hidden: 0 };
        // An error means that the text was cut, which is the purpose of the limit.
        let _cut = write!(Cut(&mut notice), "{text}");
        notice
    }

    /// How many notices before this one were not shown.
    pub fn hidden(&self) -> u64 {
        self.hidden
    }

    /// Adds notices that were not shown.
    pub fn add_hidden(&mut self, n: u64) {
        self.hidden += n;
    }
}

impl Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text[..self.len]))?;
        if self.hidden > 0 {
            write!(f, " (after {} notices that were not shown)", self.hidden)?;
        }
        Ok(())
    }
}

/// The pump's end of the queue.
pub struct NoticeSender {
    queue: rtrb::Producer<Notice>,
    dropped: u64,
}

/// The control thread's end of the queue.
pub type NoticeReceiver = rtrb::Consumer<Notice>;

/// Both ends of a queue.
pub fn queue() -> (NoticeSender, NoticeReceiver) {
    let (queue, receiver) = rtrb::RingBuffer::new(QUEUE);
    (NoticeSender { queue, dropped: 0 }, receiver)
}

impl NoticeSender {
    /// Queues a notice, or counts it if there is no room.
    pub fn push(&mut self, mut notice: Notice) {
        notice.hidden = self.dropped;
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
    fn a_long_notice_is_cut_and_notices_without_room_are_counted() {
        assert_eq!(Notice::new("ü".repeat(300)).to_string(), "ü".repeat(100));
        let (mut sender, mut receiver) = queue();
        for i in 0..QUEUE + 5 {
            sender.push(Notice::new(i));
        }
        assert_eq!(receiver.pop().unwrap().to_string(), "0");
        sender.push(Notice::new("last"));
        let last = std::iter::from_fn(|| receiver.pop().ok()).last().unwrap();
        assert_eq!(last.to_string(), "last (after 5 notices that were not shown)");
    }
}
