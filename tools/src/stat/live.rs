//! The live screen: streams with a sparkline of their rate, readers with a bar of their lag.
//!
//! Contract: what is shown is a list of lines made from the model alone ([`Screen::lines`]), cut
//! and scrolled to the terminal; colour only repeats what words say. Whatever ends the program, the
//! terminal is given back as it was.

use super::columns::{COLUMNS, Moment, printable, wrap};
use super::fleet::Fleet;
use super::model::{Reader, ReaderState, Stream};
use super::table;
use crate::date;
use anyhow::Context;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::Paragraph;
use ringweir_cli::quantity::Rate;
use ringweir_proto::os::clock;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Looks that are remembered: as many as the widest terminal shows.
const HISTORY: usize = 512;
/// Height of a sparkline in lines.
const SPARK_ROWS: usize = 2;
/// Cells of a lag bar.
const BAR: usize = 12;
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Everything that outlives one look.
pub struct Screen {
    colour: bool,
    /// Bytes per second at each look, by stream; `None`: not known then.
    history: HashMap<String, VecDeque<Option<f64>>>,
    /// Widest each column has been, by stream: so that columns do not jump.
    widths: HashMap<String, Vec<usize>>,
    scroll: usize,
}

impl Screen {
    /// With or without colour.
    pub fn new(colour: bool) -> Self {
        Self { colour, history: HashMap::new(), widths: HashMap::new(), scroll: 0 }
    }

    /// Remembers the rates of one look.
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
        // The scale stands at the right end: the newest value touches it.
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
        // The bar stands behind the label and leaves after all that may leave.
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

/// `text` on as many lines as it takes, broken where two blanks part one figure from the next.
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

/// Which columns fit into `width`; `None` if not even those that stay.
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

/// "[|||     ]": as full as the part of the ring that lies between reader and write cursor.
/// "[LAPPED]" beyond.
fn lag_bar(reader: &Reader) -> String {
    if reader.is_lapped() {
        return format!("[{:=^BAR$}]", "LAPPED");
    }
    // Any lag shows, and only a whole ring fills it.
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

/// Gives the terminal back when it goes, also through `?` and a panic.
struct Taken;

impl Drop for Taken {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the streams every `interval` until q, Ctrl-C, Escape or `stop`, or `count` times. True:
/// something was lost.
pub fn run(
    fleet: &mut Fleet,
    interval: Duration,
    count: Option<u64>,
    stop: &AtomicBool,
) -> anyhow::Result<bool> {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut screen = Screen::new(colour);
    let taken = Taken;
    let mut terminal = ratatui::try_init()
        .context("cannot take the terminal over (without one, use a pipe: | cat)")?;
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
    drop(taken);
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
mod tests {
    use super::super::model::tests::{SECOND, outside, runs, snapshot};
    use super::*;
    use crate::process::Process;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn streams() -> Vec<Stream> {
        let readers =
            [("ringrec", 4400, 0, false), ("monitor", 100, 65, true), ("egress", 5000, 4, false)];
        let a = snapshot(10 * SECOND, 4000, &[]);
        let b = snapshot(11 * SECOND, 5000, &readers);
        let process = |pid| if pid == 1001 { Process::Stopped('T') } else { Process::Runs('S') };
        vec![Stream::new(&b, Some(&a), &outside(11 * SECOND + 42_000_000), process)]
    }

    fn shown(
        screen: &mut Screen,
        streams: &[Stream],
        width: u16,
        height: u16,
    ) -> (Vec<String>, TestBackend) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let moment = |_: &Stream| Moment { now: 0, clock: |_, _| "12:41:07".into() };
        terminal.draw(|frame| screen.draw(frame, streams, &[], "12:41:09", moment)).unwrap();
        let text = terminal.backend().to_string();
        let lines = text.lines().map(|l| l.trim_matches('"').trim_end().to_owned()).collect();
        (lines, terminal.backend().clone())
    }

    fn screen(colour: bool) -> Screen {
        let mut screen = Screen::new(colour);
        let past = [Some(0.0), Some(64e3), None, Some(128e3), Some(256e3)];
        screen.history.insert("demo".into(), past.into());
        screen
    }

    #[test]
    fn a_screen_as_people_see_it() {
        let (lines, _) = shown(&mut screen(true), &streams(), 112, 11);
        let expected = [
            "STREAM demo gen 1  gen:rate=1MB/s",
            "1 kdg/s  256 kB/s  depth 1024 dg / 1 MiB  readers 3/64  age 42 ms",
            "LOST  device 0  kernel 0  broker 0  reader 4009",
            "                                                                                                    █ 256 kB/s",
            "                                                                                                 ▄·██ 0",
            "READER  LAG OF RING     PID          LAG LAG BYTES      HIWATER  LOST GAPS LAST \
            LOSS     STATE",
            "ringrec [||||||||    ] 1000 600 / 600 ms   150 KiB 600 / 600 ms     0    0 \
            –             running",
            "monitor [===LAPPED===] 1001       LAPPED   1.2 MiB 4900 / 4.9 s 4005+    1 12:41:07 \
            (65) stopped (T)",
            "egress  [            ] 1002            0       0 B            0     4    1 12:41:07 \
            (4)  waiting",
            "",
            "ringstat 12:41:09  q quits",
        ];
        assert_eq!(lines, expected, "\n{}", lines.join("\n"));
    }

    #[test]
    fn a_narrow_terminal_keeps_what_matters() {
        let shown_at = |width| shown(&mut screen(true), &streams(), width, 14).0;
        let reader = |lines: &[String]| {
            lines.iter().find(|l| l.starts_with("monitor")).cloned().unwrap_or_default()
        };
        let lines = shown_at(64);
        let monitor = reader(&lines);
        assert!(
            monitor.starts_with("monitor [===LAPPED===]") && monitor.contains("4005+"),
            "{lines:?}"
        );
        assert!(
            monitor.ends_with("stopped (T)") && !lines.iter().any(|l| l.contains("GAPS")),
            "{lines:?}"
        );
        let lines = shown_at(44);
        assert!(
            reader(&lines).contains("LAPPED") && reader(&lines).ends_with("stopped (T)"),
            "{lines:?}"
        );
        assert_eq!(
            lines[1..3],
            ["1 kdg/s  256 kB/s  depth 1024 dg / 1 MiB", "readers 3/64  age 42 ms"]
        );
        for (width, height) in [(1, 1), (3, 40), (20, 2)] {
            shown(&mut screen(true), &streams(), width, height);
        }
    }

    #[test]
    fn what_does_not_fit_is_said_and_can_be_scrolled_to() {
        let mut screen = screen(true);
        let (lines, _) = shown(&mut screen, &streams(), 100, 5);
        assert_eq!(lines[4], "ringstat 12:41:09  q quits  arrows scroll: 0 lines above, 5 below");
        screen.scroll = 99;
        let (lines, _) = shown(&mut screen, &streams(), 100, 5);
        assert!(lines[3].starts_with("egress"), "{lines:?}");
        assert_eq!(screen.scroll, 5);
    }

    /// The other way round: a screen without trouble raises no alarm.
    #[test]
    fn a_healthy_stream_shows_no_alarm() {
        let s = snapshot(11 * SECOND, 5000, &[("ringrec", 4990, 0, false)]);
        let healthy = [Stream::new(&s, None, &outside(11 * SECOND), runs)];
        let (lines, backend) = shown(&mut screen(true), &healthy, 112, 11);
        let text = lines.join("\n");
        for word in ["LAPPED", "stopped", "!!", "+", "not told"] {
            assert!(!text.contains(word), "{word}:\n{text}");
        }
        assert!(backend.buffer().content.iter().all(|c| c.fg != Color::Red), "{text}");
        let (_, backend) = shown(&mut screen(true), &streams(), 112, 11);
        assert!(backend.buffer().content.iter().any(|c| c.fg == Color::Red));
    }

    #[test]
    fn without_colour_the_same_is_said_in_bold() {
        let (plain, backend) = shown(&mut screen(false), &streams(), 112, 11);
        assert!(
            backend.buffer().content.iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset)
        );
        assert!(backend.buffer().content.iter().any(|c| c.modifier.contains(Modifier::BOLD)));
        assert_eq!(plain, shown(&mut screen(true), &streams(), 112, 11).0);
    }

    #[test]
    fn old_figures_stand_out() {
        let s = snapshot(11 * SECOND, 5000, &[]);
        let out = super::super::model::Outside {
            broker: Process::Stopped('T'),
            ..outside(14 * SECOND + SECOND / 5)
        };
        let (lines, _) = shown(&mut screen(true), &[Stream::new(&s, None, &out, runs)], 80, 11);
        assert_eq!(lines[3], "!! broker stopped (T), figures 3.2 s old");
        assert!(lines.contains(&"no readers attached".into()), "{lines:?}");
    }

    #[test]
    fn long_lines_are_broken_between_figures_and_streams_that_do_not_answer_are_named() {
        assert_eq!(wrapped("a b  c  d", 6), ["a b  c", "d"]);
        assert_eq!(wrapped("abcdef  g", 3), ["abcdef", "g"]);
        let mut terminal = Terminal::new(TestBackend::new(40, 3)).unwrap();
        let problems = ["stream \"old\": no broker answers".to_owned()];
        terminal
            .draw(|frame| screen(true).draw(frame, &[], &problems, "12:41:09", Moment::of))
            .unwrap();
        assert!(terminal.backend().to_string().contains("!! stream \"old\": no broker answers"));
    }

    #[test]
    fn columns_do_not_jump_when_numbers_get_shorter() {
        let (mut screen, healthy) =
            (screen(true), snapshot(11 * SECOND, 5000, &[("x", 5000, 0, false)]));
        shown(&mut screen, &streams(), 112, 11);
        let wide = screen.widths.clone();
        shown(&mut screen, &[Stream::new(&healthy, None, &outside(11 * SECOND), runs)], 112, 11);
        assert_eq!(screen.widths, wide);
    }

    #[test]
    fn sparks_are_scaled_and_never_hide_a_trickle() {
        assert_eq!(spark(&[Some(0.0), Some(1.0), Some(8.0), None], 8.0, 1), [" ▁█·"]);
        assert_eq!(spark(&[Some(0.001), Some(16.0), Some(4.0)], 16.0, 2), [" █ ", "▁█▄"]);
        assert_eq!(spark(&[Some(0.0)], 0.0, 1), [" "]);
    }
}
