//! The live screen: streams with a sparkline of their rate, readers with a bar of their lag.
//!
//! Contract: the screen is a list of lines made from the model alone ([`Screen::lines`]), cut and
//! scrolled to the terminal. Colour only repeats what the text says. However the program ends, the
//! terminal is restored. It never outlives its terminal, and a signal always ends it ([`keeper`]).

mod keeper;

use super::columns::{COLUMNS, Moment};
use super::fleet::Fleet;
use super::model::{Reader, ReaderState, Stream};
use super::table;
use super::text::wrap;
use crate::date;
use anyhow::Context;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::Paragraph;
use ringweir_cli::printable::printable;
use ringweir_cli::quantity::Rate;
use ringweir_proto::os::clock;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Samples that are remembered: as many as the widest terminal shows.
const HISTORY: usize = 512;
/// Height of a sparkline in lines.
const SPARK_ROWS: usize = 2;
/// Cells of a lag bar.
const BAR: usize = 12;
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The state that is kept between samples.
pub struct Screen {
    colour: bool,
    /// Bytes per second at each sample, by stream; `None`: not known.
    history: HashMap<String, VecDeque<Option<f64>>>,
    /// Largest width of each column so far, by stream, so that columns do not jump.
    widths: HashMap<String, Vec<usize>>,
    scroll: usize,
}

impl Screen {
    /// A screen with or without colour.
    pub fn new(colour: bool) -> Self {
        Self { colour, history: HashMap::new(), widths: HashMap::new(), scroll: 0 }
    }

    /// Remembers the rates of one sample.
    pub fn remember(&mut self, streams: &[Stream]) {
        for stream in streams {
            let past = self.history.entry(stream.snapshot.name.clone()).or_default();
            if past.len() == HISTORY {
                past.pop_front();
            }
            past.push_back(stream.rates.map(|r| r.bytes));
        }
    }

    fn paint(&self, colour: Color, also: Modifier) -> Style {
        let style = Style::new().add_modifier(also);
        if self.colour { style.fg(colour) } else { style }
    }

    fn alarm(&self) -> Style {
        self.paint(Color::Red, Modifier::BOLD)
    }

    /// The screen as lines of at most `width` cells.
    pub fn lines(
        &mut self,
        streams: &[Stream],
        width: usize,
        moment: impl Fn(&Stream) -> Moment,
    ) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        for stream in streams {
            if !lines.is_empty() {
                lines.push(Line::default());
            }
            let bold = Style::new().add_modifier(Modifier::BOLD);
            let source = format!("  {}", printable(&stream.snapshot.source));
            lines
                .push(Line::from(vec![Span::styled(table::name(stream), bold), Span::raw(source)]));
            lines.extend(wrapped(&table::facts(stream), width).into_iter().map(Line::raw));
            let lost = if stream.loss.any() { self.alarm() } else { Style::new() };
            lines.extend(
                wrapped(&table::losses(stream), width).into_iter().map(|l| Line::styled(l, lost)),
            );
            for remark in table::remarks(stream) {
                let style = self.paint(Color::Yellow, Modifier::REVERSED);
                lines.push(Line::styled(format!("!! {remark}"), style));
            }
            lines.extend(self.sparkline(stream, width));
            self.readers(stream, width, moment(stream), &mut lines);
        }
        lines
    }

    fn sparkline(&self, stream: &Stream, width: usize) -> Vec<Line<'static>> {
        let Some(past) = self.history.get(&stream.snapshot.name) else { return Vec::new() };
        // The scale is at the right end, next to the newest value.
        let label = |text: String| format!(" {text:<10}");
        let room = width.saturating_sub(11);
        let shown: Vec<Option<f64>> =
            past.iter().copied().skip(past.len().saturating_sub(room)).collect();
        let most = shown.iter().flatten().fold(0.0, |a: f64, b| a.max(*b));
        let style = self.paint(Color::Cyan, Modifier::empty());
        spark(&shown, most, SPARK_ROWS)
            .into_iter()
            .enumerate()
            .map(|(row, text)| {
                let pad = room - shown.len();
                let scale = match row {
                    0 => label(Rate::Bytes(most).to_string()),
                    _ => label("0".into()),
                };
                Line::from(vec![
                    Span::raw(" ".repeat(pad)),
                    Span::styled(text, style),
                    Span::raw(scale),
                ])
            })
            .collect()
    }

    fn readers(
        &mut self,
        stream: &Stream,
        width: usize,
        moment: Moment,
        lines: &mut Vec<Line<'static>>,
    ) {
        if stream.readers.is_empty() {
            lines.push(Line::raw("no readers attached"));
            return;
        }
        let rows: Vec<Vec<String>> = stream
            .readers
            .iter()
            .map(|r| COLUMNS.iter().map(|c| (c.cell)(r, moment)).collect())
            .collect();
        let cells = |i: usize| {
            let content = rows.iter().map(|row| Span::raw(&row[i]).width()).max().unwrap_or(0);
            content.max(COLUMNS[i].head.len())
        };
        let known = self
            .widths
            .entry(stream.snapshot.name.clone())
            .or_insert_with(|| vec![0; COLUMNS.len()]);
        known.iter_mut().enumerate().for_each(|(i, w)| *w = cells(i).max(*w));
        let widths = known.clone();
        // The bar comes after the label. It is dropped if not even the columns that must stay fit
        // beside it.
        let kept = keep(&widths, width.saturating_sub(BAR + 3));
        let (kept, bar) = match kept {
            Some(kept) => (kept, true),
            None => (
                keep(&widths, width).unwrap_or_else(|| {
                    (0..COLUMNS.len()).filter(|i| COLUMNS[*i].leaves == 0).collect()
                }),
                false,
            ),
        };
        let mut head = Vec::new();
        for i in &kept {
            head.push(padded(COLUMNS[*i].head, widths[*i], COLUMNS[*i].right));
            if *i == 0 && bar {
                head.push(format!("{:<1$}", "LAG OF RING", BAR + 2));
            }
        }
        lines.push(Line::styled(
            head.join(" ").trim_end().to_owned(),
            Style::new().add_modifier(Modifier::UNDERLINED),
        ));
        for (reader, row) in stream.readers.iter().zip(&rows) {
            let mut spans = Vec::new();
            for i in &kept {
                let text = padded(&row[*i], widths[*i], COLUMNS[*i].right);
                spans.push(Span::styled(
                    format!("{text} "),
                    self.cell_style(COLUMNS[*i].head, reader),
                ));
                if *i == 0 && bar {
                    spans.push(Span::styled(
                        format!("{} ", lag_bar(reader)),
                        self.bar_style(reader),
                    ));
                }
            }
            lines.push(Line::from(spans));
        }
    }

    fn bar_style(&self, reader: &Reader) -> Style {
        match reader.lag_share {
            _ if reader.is_lapped() => self.alarm(),
            s if s >= 0.75 => self.paint(Color::Red, Modifier::BOLD),
            s if s >= 0.5 => self.paint(Color::Yellow, Modifier::empty()),
            _ => self.paint(Color::Green, Modifier::empty()),
        }
    }

    fn cell_style(&self, head: &str, reader: &Reader) -> Style {
        match (head, reader.state) {
            ("LOST", _) if reader.lost() > 0 => self.alarm(),
            ("LAG", _) if reader.is_lapped() => self.alarm(),
            ("STATE", ReaderState::Lapped | ReaderState::Gone | ReaderState::Implausible) => {
                self.alarm()
            }
            ("STATE", ReaderState::Stopped(_)) => self.paint(Color::Yellow, Modifier::BOLD),
            _ => Style::new(),
        }
    }

    fn draw(
        &mut self,
        frame: &mut Frame<'_>,
        streams: &[Stream],
        problems: &[String],
        now: &str,
        moment: impl Fn(&Stream) -> Moment,
    ) {
        let area = frame.area();
        let mut lines = self.lines(streams, area.width.into(), moment);
        for problem in problems {
            let text = wrap(&format!("!! {}", printable(problem)), area.width.into());
            lines.extend(text.into_iter().map(Line::raw));
        }
        let room = usize::from(area.height).saturating_sub(1);
        self.scroll = self.scroll.min(lines.len().saturating_sub(room));
        let below = lines.len().saturating_sub(self.scroll + room);
        let more = match (self.scroll, below) {
            (0, 0) => String::new(),
            (above, below) => format!("  arrows scroll: {above} lines above, {below} below"),
        };
        let mut shown: Vec<Line<'static>> =
            lines.into_iter().skip(self.scroll).take(room).collect();
        shown.resize(room, Line::default());
        shown.push(Line::styled(
            format!("ringstat {now}  q quits{more}"),
            Style::new().add_modifier(Modifier::DIM),
        ));
        frame.render_widget(Paragraph::new(Text::from(shown)), area);
    }
}

/// `text` on as many lines as it needs, broken at the two blanks between figures.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in text.split("  ") {
        match lines.last_mut() {
            Some(line)
                if Span::raw(line.as_str()).width() + 2 + Span::raw(part).width() <= width =>
            {
                line.push_str("  ");
                line.push_str(part);
            }
            _ => lines.push(part.into()),
        }
    }
    lines
}

/// The columns that fit into `width`. `None`: not even those that must stay fit.
fn keep(widths: &[usize], width: usize) -> Option<Vec<usize>> {
    let most = COLUMNS.iter().map(|c| c.leaves).max().unwrap_or(0);
    (0..=most).rev().find_map(|level| {
        let kept: Vec<usize> = (0..COLUMNS.len()).filter(|i| COLUMNS[*i].leaves <= level).collect();
        let needed: usize = kept.iter().map(|i| widths[*i] + 1).sum();
        (needed <= width + 1).then_some(kept)
    })
}

/// `text` in `width` cells of the terminal.
fn padded(text: &str, width: usize, right: bool) -> String {
    let pad = " ".repeat(width.saturating_sub(Span::raw(text).width()));
    if right { pad + text } else { text.to_owned() + &pad }
}

/// "[|||     ]": the share of the ring between reader and write cursor. "[LAPPED]" if the reader is
/// lapped.
fn lag_bar(reader: &Reader) -> String {
    if reader.is_lapped() {
        return format!("[{:=^BAR$}]", "LAPPED");
    }
    // Any lag is visible, and only a whole ring fills the bar.
    let full = (reader.lag_share * BAR as f64).ceil() as usize;
    let full = if reader.lag_share < 1.0 { full.min(BAR - 1) } else { BAR };
    format!("[{}{}]", "|".repeat(full), " ".repeat(BAR - full))
}

/// Values as `rows` lines of bars, the topmost first; an unknown one is a dot at the bottom.
fn spark(values: &[Option<f64>], most: f64, rows: usize) -> Vec<String> {
    let steps = (rows * 8) as f64;
    let level = |v: f64| {
        if most > 0.0 && v > 0.0 { ((v / most * steps).round() as usize).max(1) } else { 0 }
    };
    (0..rows)
        .rev()
        .map(|row| {
            let cell = |v: &Option<f64>| match v {
                Some(v) => LEVELS[level(*v).saturating_sub(row * 8).min(8)],
                None if row == 0 => '·',
                None => ' ',
            };
            values.iter().map(cell).collect()
        })
        .collect()
}

/// Restores the terminal when dropped, also after `?` and a panic.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the streams every `interval` until q, Ctrl-C, Escape or `stop`, or `count` times. True if
/// something was lost.
pub fn run(
    fleet: &mut Fleet,
    interval: Duration,
    count: Option<u64>,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<bool> {
    keeper::start(stop.clone()).context("cannot start a thread")?;
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut screen = Screen::new(colour);
    let restore = Restore;
    let mut terminal =
        ratatui::try_init().context("cannot use the terminal (without one, use a pipe: | cat)")?;
    let mut next = Instant::now();
    let mut lost = false;
    let mut left = count;
    'looks: loop {
        let streams = fleet.look();
        let problems = fleet.problems();
        screen.remember(&streams);
        lost |= streams.iter().any(|s| s.loss.any());
        next = (next + interval).max(Instant::now());
        left = left.map(|n| n.saturating_sub(1));
        loop {
            let now = date::moment(clock::realtime_ns(), clock::realtime_ns());
            terminal.draw(|frame| screen.draw(frame, &streams, &problems, &now, Moment::of))?;
            match wait_for_key(next, stop, &mut screen.scroll)? {
                Then::Look if left == Some(0) => break 'looks,
                Then::Look => break,
                Then::Draw => {}
                Then::Quit => break 'looks,
            }
        }
    }
    drop(restore);
    Ok(lost)
}

enum Then {
    Look,
    Draw,
    Quit,
}

fn wait_for_key(until: Instant, stop: &AtomicBool, scroll: &mut usize) -> anyhow::Result<Then> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(Then::Quit);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Then::Look);
        }
        if !event::poll(left.min(Duration::from_millis(100)))? {
            continue;
        }
        match event::read()? {
            Event::Resize(..) => return Ok(Then::Draw),
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('c') if control => return Ok(Then::Quit),
                    KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Ok(Then::Quit),
                    KeyCode::Up => *scroll = scroll.saturating_sub(1),
                    KeyCode::Down => *scroll += 1,
                    KeyCode::PageUp => *scroll = scroll.saturating_sub(10),
                    KeyCode::PageDown => *scroll += 10,
                    KeyCode::Home => *scroll = 0,
                    _ => continue,
                }
                return Ok(Then::Draw);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
