//! The seqs that one generation of a stream gave a reader.

use ringweir::Account;

/// What one generation of the stream gave a reader, counted by the tool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SeqWindow {
    pub(crate) first: u64,
    pub(crate) delivered: u64,
    pub(crate) bytes: u64,
    pub(crate) lost: u64,
    pub(crate) gaps: u64,
    pub(crate) upstream: u64,
    /// Times the source's device went away.
    pub(crate) gone: u64,
}

impl SeqWindow {
    pub(crate) fn starting_at(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    pub(crate) fn next(&self) -> u64 {
        self.first + self.delivered + self.lost
    }

    /// Whether the library's account is the same, and adds up with the read cursor.
    pub(crate) fn agrees(&self, account: &Account, read_cursor: u64) -> bool {
        let theirs =
            (account.start, account.delivered, account.lost, account.gaps, account.bytes_delivered);
        theirs == (self.first, self.delivered, self.lost, self.gaps, self.bytes)
            && self.next() == read_cursor
    }
}
