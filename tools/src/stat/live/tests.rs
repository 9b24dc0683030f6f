//! The live screen as people see it, drawn into a test terminal.

use super::*;
use crate::process::Process;
use crate::stat::model::tests::{SECOND, outside, runs, snapshot};
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
    let peak = format!("{:100}█ 256 kB/s", "");
    let zero = format!("{:97}▄·██ 0", "");
    let expected = [
        "STREAM demo gen 1  gen:rate=1MB/s",
        "1 kdg/s  256 kB/s  depth 1024 dg / 1 MiB  readers 3/64  age 42 ms",
        "LOST  device 0  kernel 0  broker 0  reader 4009",
        peak.as_str(),
        zero.as_str(),
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
fn hidden_lines_are_counted_and_can_be_scrolled_to() {
    let mut screen = screen(true);
    let (lines, _) = shown(&mut screen, &streams(), 100, 5);
    assert_eq!(lines[4], "ringstat 12:41:09  q quits  arrows scroll: 0 lines above, 5 below");
    screen.scroll = 99;
    let (lines, _) = shown(&mut screen, &streams(), 100, 5);
    assert!(lines[3].starts_with("egress"), "{lines:?}");
    assert_eq!(screen.scroll, 5);
}

/// Control: a screen without problems shows no alarm.
#[test]
fn a_healthy_stream_shows_no_alarm() {
    let s = snapshot(11 * SECOND, 5000, &[("ringrec", 4990, 0, false)]);
    let healthy = [Stream::new(&s, None, &outside(11 * SECOND), runs)];
    let (lines, backend) = shown(&mut screen(true), &healthy, 112, 11);
    let text = lines.join("\n");
    for word in ["LAPPED", "stopped", "!!", "+", "not noticed"] {
        assert!(!text.contains(word), "{word}:\n{text}");
    }
    assert!(backend.buffer().content.iter().all(|c| c.fg != Color::Red), "{text}");
    let (_, backend) = shown(&mut screen(true), &streams(), 112, 11);
    assert!(backend.buffer().content.iter().any(|c| c.fg == Color::Red));
}

#[test]
fn without_colour_the_same_is_shown_in_bold() {
    let (plain, backend) = shown(&mut screen(false), &streams(), 112, 11);
    assert!(backend.buffer().content.iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
    assert!(backend.buffer().content.iter().any(|c| c.modifier.contains(Modifier::BOLD)));
    assert_eq!(plain, shown(&mut screen(true), &streams(), 112, 11).0);
}

#[test]
fn old_figures_stand_out() {
    let s = snapshot(11 * SECOND, 5000, &[]);
    let out = crate::stat::model::Outside {
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
fn sparklines_are_scaled_and_never_hide_a_small_rate() {
    assert_eq!(spark(&[Some(0.0), Some(1.0), Some(8.0), None], 8.0, 1), [" ▁█·"]);
    assert_eq!(spark(&[Some(0.001), Some(16.0), Some(4.0)], 16.0, 2), [" █ ", "▁█▄"]);
    assert_eq!(spark(&[Some(0.0)], 0.0, 1), [" "]);
}
