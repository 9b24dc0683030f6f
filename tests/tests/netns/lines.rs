//! The datagrams and losses that a reader has received, one line each, as `ringtest-lines` writes
//! them.
//!
//! Contract: fails the test if there is a gap in the sequence numbers or the end does not add up.

/// The output of `ringtest-lines`.
#[derive(Default)]
pub struct Lines {
    pub datagrams: Vec<Seen>,
    /// Reported losses, in order: number of datagrams before it, count, layer, exact.
    pub upstream: Vec<(usize, u64, String, bool)>,
}

pub struct Seen {
    pub seq: u64,
    pub len: usize,
    pub original_len: u32,
    pub cut: bool,
    pub time: u64,
    pub crc: u32,
    pub number: u64,
}

impl Lines {
    pub fn parse(text: &str) -> Self {
        let mut lines = Self::default();
        let mut ended = false;
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let n = |at: usize| words[at].parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
            match words[0] {
                "datagram" => lines.datagrams.push(Seen {
                    seq: n(1),
                    len: n(2) as usize,
                    original_len: n(3) as u32,
                    cut: n(4) == 1,
                    time: n(5),
                    crc: n(6) as u32,
                    number: n(7),
                }),
                "upstream" => {
                    lines.upstream.push((
                        lines.datagrams.len(),
                        n(2),
                        words[3].into(),
                        words[4] == "true",
                    ));
                }
                "end" => {
                    ended = true;
                    let [start, delivered, lost, cursor, reported] = [1, 2, 3, 4, 5].map(n);
                    assert_eq!((start + delivered + lost, lost), (cursor, 0), "{line}");
                    assert_eq!(delivered, lines.datagrams.len() as u64, "{line}");
                    assert_eq!(reported, lines.reported(), "{line}");
                }
                _ => panic!("not expected here: {line}"),
            }
        }
        assert!(ended, "no end in {} lines", lines.datagrams.len());
        assert!(lines.datagrams.iter().map(|d| d.seq).eq(0..lines.datagrams.len() as u64));
        lines
    }

    pub fn reported(&self) -> u64 {
        self.upstream.iter().map(|(_, count, ..)| count).sum()
    }

    /// Checks that losses in the kernel were all reported, and each before the datagram that
    /// followed it. `of` selects the numbered datagrams; others may have been lost too.
    pub fn check_reported_in_time(&self, lost: u64, of: impl Fn(&Seen) -> bool) {
        assert!(
            self.upstream.iter().all(|(_, _, layer, exact)| layer == "Kernel" && *exact),
            "{:?}",
            self.upstream
        );
        assert_eq!(self.reported(), lost, "reported and counted");
        let mut reported = self.upstream.iter().peekable();
        let (mut so_far, mut came, mut next) = (0, 0, 0);
        for (at, datagram) in self.datagrams.iter().enumerate() {
            while let Some((_, count, ..)) = reported.next_if(|(before, ..)| *before <= at) {
                so_far += count;
            }
            if of(datagram) {
                assert!(datagram.number >= next, "number {} came behind {next}", datagram.number);
                next = datagram.number + 1;
                assert!(
                    datagram.number - came <= so_far,
                    "before number {} {} are missing, {so_far} were reported",
                    datagram.number,
                    datagram.number - came
                );
                came += 1;
            }
        }
    }
}
