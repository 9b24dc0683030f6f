//! The streams of the control thread, by index.
//!
//! Contract: an index is reused once its stream is removed.

use crate::stream::running::Stream;
use std::time::Instant;

/// One stream, and when it is removed.
struct Entry {
    stream: Stream,
    remove_at: Option<Instant>,
    /// It is removed as soon as its pump has ended.
    leaves: bool,
}

/// All streams.
#[derive(Default)]
pub(super) struct Streams(Vec<Option<Entry>>);

impl Streams {
    /// The index that the next stream gets.
    pub(super) fn next_index(&self) -> usize {
        self.0.iter().position(Option::is_none).unwrap_or(self.0.len())
    }

    /// Adds a stream under [`Self::next_index`].
    pub(super) fn add(&mut self, stream: Stream) {
        let index = self.next_index();
        if index == self.0.len() {
            self.0.push(None);
        }
        self.0[index] = Some(Entry { stream, remove_at: None, leaves: false });
    }

    pub(super) fn get(&self, index: usize) -> Option<&Stream> {
        Some(&self.0.get(index)?.as_ref()?.stream)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Stream> {
        Some(&mut self.0.get_mut(index)?.as_mut()?.stream)
    }

    /// The index of the stream with this name.
    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|e| e.as_ref().is_some_and(|e| e.stream.name() == name))
    }

    /// The stream with this name.
    pub(super) fn named(&self, name: &str) -> Option<&Stream> {
        self.get(self.index_of(name)?)
    }

    /// Sets that a stream is removed as soon as its pump has ended.
    pub(super) fn leave(&mut self, index: usize) {
        if let Some(Some(entry)) = self.0.get_mut(index) {
            entry.leaves = true;
        }
    }

    /// Whether a stream is removed as soon as its pump has ended.
    pub(super) fn is_leaving(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|entry| entry.as_ref().is_some_and(|e| e.leaves))
    }

    /// All streams but those that are leaving.
    pub(super) fn staying(&self) -> impl Iterator<Item = &Stream> {
        self.0.iter().flatten().filter(|e| !e.leaves).map(|e| &e.stream)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.0.iter().flatten().map(|e| &e.stream)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.0.iter_mut().flatten().map(|e| &mut e.stream)
    }

    /// All indices, free ones included.
    pub(super) fn indices(&self) -> std::ops::Range<usize> {
        0..self.0.len()
    }

    /// Sets when a stream that has ended is removed. `None`: not by itself.
    pub(super) fn remove_at(&mut self, index: usize, at: Option<Instant>) {
        if let Some(Some(entry)) = self.0.get_mut(index) {
            entry.remove_at = at;
        }
    }

    /// Streams to be removed by now.
    pub(super) fn due(&self, now: Instant) -> Vec<usize> {
        let due =
            |e: &Option<Entry>| e.as_ref().and_then(|e| e.remove_at).is_some_and(|at| now >= at);
        self.indices().filter(|i| due(&self.0[*i])).collect()
    }

    /// Drops a stream.
    pub(super) fn remove(&mut self, index: usize) {
        if let Some(entry) = self.0.get_mut(index) {
            *entry = None;
        }
    }

    /// For the service manager: how many streams there are, and the names of the first.
    pub(super) fn status(&self) -> String {
        let names: Vec<_> = self.staying().map(Stream::name).collect();
        let shown = names[..names.len().min(8)].join(" ");
        format!("{} streams: {shown}{}", names.len(), if names.len() > 8 { " …" } else { "" })
    }
}
