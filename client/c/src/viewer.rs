//! A stream's statistics as C sees them: figures by number or by name, from one snapshot at a time.

#![allow(unsafe_code, reason = "exported symbols")]

use crate::args::{Back, InMut, Out, Text};
use crate::handle::Handle;
use crate::{Fault, rw_code};
use ringweir::view::Viewer;
use ringweir::view::stats::{Kind, PumpCounter, ReaderFact, Snapshot, StreamFact};
use std::ffi::{CString, c_char, c_int, c_ulonglong};
use std::ptr::null;

/// In place of a reader's number: the stream itself.
pub const RW_STREAM: c_int = -1;

/// rw_figure.kind: only grows.
pub const RW_COUNTER: u32 = 0;
/// rw_figure.kind: goes up and down.
pub const RW_GAUGE: u32 = 1;
/// rw_figure.kind: a time, CLOCK_MONOTONIC ns.
pub const RW_MONOTONIC: u32 = 2;
/// rw_figure.kind: a date, ns since 1970.
pub const RW_REALTIME: u32 = 3;

/// rw_watch_text(): the stream's name.
pub const RW_TEXT_NAME: c_int = 0;
/// rw_watch_text(): its source as configured, cut to 64 bytes.
pub const RW_TEXT_SOURCE: c_int = 1;
/// rw_watch_text(): state of the source in words, empty when all is well.
pub const RW_TEXT_NOTE: c_int = 2;

/// A view of one stream's statistics. It works while the broker is busy, stopped or dead, and costs
/// the broker nothing. Used by one thread at a time.
pub struct rw_watch(Handle<Watching>);

/// One figure.
#[repr(C)]
pub struct rw_figure {
    /// Its name, the same as in ringstat --json. Valid until rw_watch_detach().
    pub name: *const c_char,
    /// What it means, in one line. Valid until rw_watch_detach().
    pub help: *const c_char,
    /// Its value.
    pub value: c_ulonglong,
    /// RW_COUNTER, RW_GAUGE, RW_MONOTONIC or RW_REALTIME.
    pub kind: u32,
    /// Zero.
    pub reserved0: u32,
    /// Zero.
    pub reserved: [c_ulonglong; 2],
}

/// A figure's name, and where its value is.
struct Column<F> {
    name: CString,
    help: CString,
    kind: u32,
    value: F,
}

type OfStream = Box<dyn Fn(&Snapshot) -> u64 + Send>;

struct Watching {
    watch: Viewer,
    stream: Vec<Column<OfStream>>,
    readers: Vec<Column<ReaderFact>>,
    snapshot: Option<Snapshot>,
    texts: [CString; 3],
    labels: Vec<CString>,
}

fn c(s: &str) -> CString {
    CString::new(s.replace('\0', " ")).expect("NULs were replaced")
}

fn column<F>(name: &str, help: &str, kind: Kind, value: F) -> Column<F> {
    let kind = match kind {
        Kind::Counter => RW_COUNTER,
        Kind::Gauge => RW_GAUGE,
        Kind::Monotonic => RW_MONOTONIC,
        Kind::Realtime => RW_REALTIME,
    };
    Column { name: c(name), help: c(help), kind, value }
}

impl Watching {
    fn new(watch: Viewer) -> Self {
        let counter = |f: PumpCounter| {
            column(f.key(), f.help(), f.kind(), Box::new(move |s: &Snapshot| s.pump(f)) as OfStream)
        };
        let fact = |f: StreamFact| {
            column(f.key(), f.help(), f.kind(), Box::new(move |s: &Snapshot| s.get(f)) as OfStream)
        };
        let counters = PumpCounter::ALL.iter().copied().map(counter);
        Self {
            watch,
            stream: counters.chain(StreamFact::ALL.iter().copied().map(fact)).collect(),
            readers: ReaderFact::ALL
                .iter()
                .map(|f| column(f.key(), f.help(), f.kind(), *f))
                .collect(),
            snapshot: None,
            texts: Default::default(),
            labels: Vec::new(),
        }
    }

    fn snapshot(&self) -> Result<&Snapshot, Fault> {
        self.snapshot
            .as_ref()
            .ok_or_else(|| Fault::invalid("no snapshot yet: rw_watch_refresh() first"))
    }

    /// Figure `i` of the stream or of a reader; `None` past the last.
    fn figure(&self, reader: c_int, i: usize) -> Result<Option<rw_figure>, Fault> {
        let snapshot = self.snapshot()?;
        let figure = |name: &CString, help: &CString, kind, value| rw_figure {
            name: name.as_ptr(),
            help: help.as_ptr(),
            value,
            kind,
            reserved0: 0,
            reserved: [0; 2],
        };
        if reader == RW_STREAM {
            return Ok(self
                .stream
                .get(i)
                .map(|c| figure(&c.name, &c.help, c.kind, (c.value)(snapshot))));
        }
        let figures = usize::try_from(reader).ok().and_then(|n| snapshot.readers.get(n));
        let Some(figures) = figures else {
            return Err(Fault::invalid(format!(
                "reader {reader}: there are {}",
                snapshot.readers.len()
            )));
        };
        Ok(self.readers.get(i).map(|c| figure(&c.name, &c.help, c.kind, figures.get(c.value))))
    }

    /// Number of the figure called `name`.
    fn place(&self, reader: c_int, name: &str) -> Option<usize> {
        let is = |known: &CString| known.as_bytes() == name.as_bytes();
        if reader == RW_STREAM {
            self.stream.iter().position(|c| is(&c.name))
        } else {
            self.readers.iter().position(|c| is(&c.name))
        }
    }
}

/// Runs one call on a watch.
fn enter(
    watch: InMut<'_, rw_watch>,
    act: impl FnOnce(&mut Watching) -> Result<rw_code, Fault>,
) -> c_int {
    Handle::enter(watch.get().map(|watch| &watch.0), act)
}

/// Asks the broker of the stream name for its statistics, once. On RW_OK end *watch with
/// rw_watch_detach(), otherwise it is NULL. Errors: those of rw_attach().
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_attach(name: Text<'_>, watch: Out<'_, *mut rw_watch>) -> c_int {
    watch.lend("watch", || {
        let viewer = Viewer::attach(name.read("name")?)?;
        Ok(rw_watch(Handle::new(Watching::new(viewer))))
    })
}

/// Ends a watch and frees everything it handed out. NULL is fine. RW_BUSY: another call is using
/// it, and nothing was done.
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_detach(watch: Back<rw_watch>) -> c_int {
    Handle::discard(watch, |watch| &watch.0)
}

/// Takes the newest snapshot, which all calls below then use. The broker makes several per second;
/// the figure sampled_at says when. Makes no system call. RW_EMPTY: there is no new one yet, and
/// the last one stays. Errors: RW_INVALID, RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_refresh(watch: InMut<'_, rw_watch>) -> c_int {
    let act = |watching: &mut Watching| {
        let Some(snapshot) = watching.watch.snapshot() else { return Ok(rw_code::RW_EMPTY) };
        watching.texts = [c(&snapshot.name), c(&snapshot.source), c(&snapshot.note)];
        watching.labels = snapshot.readers.iter().map(|r| c(&r.label)).collect();
        watching.snapshot = Some(snapshot);
        Ok(rw_code::RW_OK)
    };
    enter(watch, act)
}

/// 1: the broker ended or died, and the figures will not change any more. 0: it did not. Errors:
/// RW_INVALID, RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_hung_up(watch: InMut<'_, rw_watch>) -> c_int {
    let mut gone = false;
    let act = |watching: &mut Watching| {
        gone = watching.watch.hung_up();
        Ok(rw_code::RW_OK)
    };
    match enter(watch, act) {
        0 => gone.into(),
        error => error,
    }
}

/// Number of readers in the snapshot. Errors: RW_INVALID (also: no snapshot yet), RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_readers(watch: InMut<'_, rw_watch>) -> c_int {
    let mut count = 0;
    let act = |watching: &mut Watching| {
        count = c_int::try_from(watching.snapshot()?.readers.len()).unwrap_or(c_int::MAX);
        Ok(rw_code::RW_OK)
    };
    match enter(watch, act) {
        0 => count,
        error => error,
    }
}

/// Figure i (from 0) of a reader (from 0) or of RW_STREAM. RW_EMPTY: i is past the last one, and
/// *figure is untouched. The set of figures does not change within a release. Errors: RW_INVALID
/// (also: no such reader, no snapshot yet), RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_figure(
    watch: InMut<'_, rw_watch>,
    reader: c_int,
    i: usize,
    figure: Out<'_, rw_figure>,
) -> c_int {
    let act = |watching: &mut Watching| {
        let Some(found) = watching.figure(reader, i)? else { return Ok(rw_code::RW_EMPTY) };
        figure.write("figure", found)?;
        Ok(rw_code::RW_OK)
    };
    enter(watch, act)
}

/// The value of the figure called name of a reader (from 0) or of RW_STREAM. Errors: RW_INVALID
/// (also: no such figure or reader, no snapshot yet), RW_BUSY.
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_get(
    watch: InMut<'_, rw_watch>,
    reader: c_int,
    name: Text<'_>,
    value: Out<'_, c_ulonglong>,
) -> c_int {
    let act = |watching: &mut Watching| {
        let name = name.read("name")?;
        let found = watching
            .place(reader, name)
            .and_then(|i| watching.figure(reader, i).transpose())
            .transpose()?;
        let found = found.ok_or_else(|| Fault::invalid(format!("no figure is called {name:?}")))?;
        value.write("value", found.value)?;
        Ok(rw_code::RW_OK)
    };
    enter(watch, act)
}

/// A text about the stream: which is RW_TEXT_NAME, RW_TEXT_SOURCE or RW_TEXT_NOTE. Valid until the
/// next rw_watch_refresh(). NULL if there is no such text, or no snapshot yet.
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_text(watch: InMut<'_, rw_watch>, which: c_int) -> *const c_char {
    let mut found = null();
    let act = |watching: &mut Watching| {
        watching.snapshot()?;
        let [name, source, note] = &watching.texts;
        found = match which {
            RW_TEXT_NAME => name.as_ptr(),
            RW_TEXT_SOURCE => source.as_ptr(),
            RW_TEXT_NOTE => note.as_ptr(),
            _ => null(),
        };
        Ok(rw_code::RW_OK)
    };
    enter(watch, act);
    found
}

/// The label of a reader (from 0). Valid until the next rw_watch_refresh(). NULL if there is no
/// such reader.
#[unsafe(no_mangle)]
pub extern "C" fn rw_watch_label(watch: InMut<'_, rw_watch>, reader: c_int) -> *const c_char {
    let mut found = null();
    let act = |watching: &mut Watching| {
        found = usize::try_from(reader)
            .ok()
            .and_then(|i| watching.labels.get(i))
            .map_or(null(), |t| t.as_ptr());
        Ok(rw_code::RW_OK)
    };
    enter(watch, act);
    found
}
