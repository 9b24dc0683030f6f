//! Byte streams over pipes, split at any point. Every test checks the account: sent = published +
//! lost.

use super::super::test_bench::{Bench, Got, bytes_of};
use super::*;
use ringweir_proto::ring::LinkType;
use std::fs::File;
use std::io::Write;

/// A stream from a pipe, and the writing end.
fn piped(framing: Framing, pace: Pace, max: usize) -> (ByteStream, File) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let stream = ByteStream::new("pipe", reader, framing, pace, max).unwrap();
    (stream, File::from(writer))
}

fn len32(datagrams: &[Vec<u8>]) -> Vec<u8> {
    datagrams.iter().flat_map(|d| [&(d.len() as u32).to_le_bytes(), &d[..]].concat()).collect()
}

fn make(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + len) as u8).collect()
}

/// Writes `input` in pieces of `chunk` bytes and reads after each. Returns everything up to the
/// end.
fn feed(bench: &mut Bench, framing: Framing, max: usize, input: &[u8], chunk: usize) -> Vec<Got> {
    let (mut source, mut writer) = piped(framing, Pace::Max, max);
    let mut all = Vec::new();
    for piece in input.chunks(chunk) {
        writer.write_all(piece).unwrap();
        let (got, fill) = bench.run(&mut source);
        all.extend(got);
        if fill == Fill::Ended {
            return all;
        }
        assert_eq!(fill, Fill::Idle);
    }
    drop(writer);
    all.extend(bench.run_to_end(&mut source));
    // It stays ended.
    assert_eq!(bench.run(&mut source).1, Fill::Ended);
    all
}

/// A ring for a source that fails.
fn failing() -> Bench {
    let mut bench = Bench::new(1 << 16, 64);
    bench.may_fail = true;
    bench
}

#[test]
fn however_it_is_split_the_datagrams_are_the_same() {
    let sent: Vec<_> =
        [0, 1, 100, 0, 4096, 15_999, 20_000, 3, 20_000, 20_000, 0, 7].map(make).into();
    let input = len32(&sent);
    for chunk in [1, 3, 4, 5, 1000, 4096, 65_536] {
        let mut bench = Bench::new(1 << 20, 20_000);
        let got = feed(&mut bench, Framing::Len32Le, 20_000, &input, chunk);
        assert!(bytes_of(&got) == sent, "pieces of {chunk}");
        assert_eq!(bench.count(PumpCounter::Published), sent.len() as u64);
        assert_eq!(
            (bench.count(PumpCounter::BrokerLost), bench.count(PumpCounter::SourceFaults)),
            (0, 0)
        );
    }
}

#[test]
fn a_stream_longer_than_the_pipe_and_the_ring_comes_through() {
    for (framing, max) in
        [(Framing::Fixed(1000), 1000), (Framing::Fixed(100_000), 100_000), (Framing::Lines, 100)]
    {
        let line: Vec<u8> = b"0123456789abcdefghijklmnopqrstuvwxyz\n".to_vec();
        let input: Vec<u8> = line.iter().copied().cycle().take(line.len() * 100_000).collect();
        let (mut source, mut writer) = piped(framing, Pace::Max, max);
        let whole = input.clone();
        let thread = std::thread::spawn(move || writer.write_all(&whole).unwrap());
        let mut bench = Bench::new(2 << 20, max as u64);
        let (mut bytes, mut count) = (Vec::new(), 0_u64);
        loop {
            let (got, fill) = bench.run(&mut source);
            count += got.len() as u64;
            for datagram in got {
                bytes.extend(datagram.bytes);
                if framing == Framing::Lines {
                    bytes.push(b'\n');
                }
            }
            if fill == Fill::Ended {
                break;
            }
        }
        thread.join().unwrap();
        assert!(bytes == input, "{framing}");
        assert_eq!(count, bench.count(PumpCounter::Published));
    }
}

#[test]
fn too_long_datagrams_are_left_out_and_reported_with_their_offset() {
    let sent: Vec<_> = [10, 65, 64, 200_000, 3].map(make).into();
    for chunk in [1, 7, 65_536] {
        let mut bench = Bench::new(1 << 16, 64);
        let got = feed(&mut bench, Framing::Len32Le, 64, &len32(&sent), chunk);
        assert_eq!(bytes_of(&got), [&sent[0], &sent[2], &sent[4]]);
        let lost: Vec<_> = got.iter().map(|g| g.lost_before.clone()).collect();
        assert_eq!(lost, [vec![], vec![(Layer::Broker, 1, true)], vec![(Layer::Broker, 1, true)]]);
        let account = (bench.count(PumpCounter::Published), bench.count(PumpCounter::BrokerLost));
        assert_eq!(account, (3, 2));
        let notices = bench.notices();
        assert_eq!(notices[0], "pipe: length field says 65 at offset 14, maximum is 64; left out");
        assert_eq!(notices.len(), 2);
    }
}

#[test]
fn end_within_a_datagram_loses_it_and_is_reported_with_its_offset() {
    let input = len32(&[make(10), make(50)]);
    for (cut, offset, missing) in [(15, 15, 3), (18, 18, 50), (20, 20, 48), (67, 67, 1)] {
        for chunk in [1, 64] {
            let mut bench = failing();
            let got = feed(&mut bench, Framing::Len32Le, 64, &input[..cut], chunk);
            assert_eq!(bytes_of(&got), [make(10)]);
            assert_eq!(
                (bench.count(PumpCounter::Published), bench.count(PumpCounter::BrokerLost)),
                (1, 1),
                "{cut}"
            );
            let error = bench.failure.unwrap();
            let says = format!(
                "pipe: input ends at offset {offset}, {missing} bytes before the end of a "
            );
            assert!(error.starts_with(&says), "{error:?}");
        }
    }
}

#[test]
fn an_end_within_a_datagram_that_is_left_out_counts_it_once() {
    let mut bench = failing();
    let input = len32(&[make(10), make(500)]);
    feed(&mut bench, Framing::Len32Le, 64, &input[..100], 64);
    assert_eq!((bench.count(PumpCounter::Published), bench.count(PumpCounter::BrokerLost)), (1, 1));
    assert_eq!((bench.notices().len(), bench.failure.is_some()), (1, true));
}

#[test]
fn boundaries_lost_are_the_end() {
    let mut input = len32(&[make(10)]);
    input.extend([0xFF; 100]);
    let mut bench = failing();
    let got = feed(&mut bench, Framing::Len32Le, 64, &input, 5);
    assert_eq!(bytes_of(&got), [make(10)]);
    assert_eq!(bench.count(PumpCounter::BrokerLost), 1);
    let error = "pipe: length field says 4294967295 at offset 14, maximum is 64; the stream cannot \
        be read on";
    assert_eq!(bench.failure.as_deref(), Some(error));
}

#[test]
fn nothing_at_all_is_a_clean_end_of_most_framings() {
    let mut bench = Bench::new(1 << 16, 64);
    for framing in [Framing::Len32Le, Framing::Len16Be, Framing::Fixed(9), Framing::Lines] {
        assert!(feed(&mut bench, framing, 64, b"", 1).is_empty());
    }
    assert_eq!(
        (bench.count(PumpCounter::BrokerLost), bench.count(PumpCounter::SourceFaults)),
        (0, 0)
    );
    // A capture file has at least a header. If that is missing, no datagram is lost, but the source
    // fails.
    bench.may_fail = true;
    feed(&mut bench, Framing::Pcap, 64, b"\xd4\xc3", 1);
    assert!(bench.failure.as_ref().is_some_and(|f| f.contains("pcap file header")));
    assert_eq!(
        (bench.count(PumpCounter::BrokerLost), bench.count(PumpCounter::SourceFaults)),
        (0, 1)
    );
}

/// A capture with datagrams of these times (ns) and lengths, each cut from 100 bytes.
fn pcap(datagrams: &[(u64, usize)]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[0xa1b2_3c4d, 4 << 16 | 2, 0, 0, 65_535, 1]);
    for &(time, len) in datagrams {
        file.extend(words(&[
            (time / 1_000_000_000) as u32,
            (time % 1_000_000_000) as u32,
            len as u32,
            100,
        ]));
        file.extend(make(len));
    }
    file
}

#[test]
fn a_capture_keeps_its_times_and_lengths() {
    let mut bench = Bench::new(1 << 16, 128);
    let got = feed(
        &mut bench,
        Framing::Pcap,
        128,
        &pcap(&[(5_000_000_007, 60), (6_000_000_000, 100)]),
        9,
    );
    let seen: Vec<_> = got.iter().map(|g| (g.source_time, g.bytes.len(), g.original_len)).collect();
    assert_eq!(seen, [(5_000_000_007, 60, 100), (6_000_000_000, 100, 100)]);
    assert_eq!(bench.count(PumpCounter::Truncated), 1);
}

#[test]
fn at_its_original_pace_a_capture_makes_its_own_pauses() {
    let (mut source, mut writer) = piped(Framing::Pcap, Pace::Original(LONGEST_PAUSE), 128);
    let times = [7_000, 7_000, 7_500, 7_200, 9_000].map(|ms| (ms * 1_000_000, 20));
    writer.write_all(&pcap(&times)).unwrap();
    drop(writer);
    let mut bench = Bench::new(1 << 16, 128);
    let mut step = |now_ms: u64, count: usize, until_ms: u64| {
        bench.now = now_ms * 1_000_000;
        let (got, fill) = bench.run(&mut source);
        assert_eq!((got.len(), fill), (count, Fill::Idle), "at {now_ms}");
        assert_eq!(source.wait_for().until, Some(until_ms * 1_000_000));
        assert!(source.wait_for().readable.is_none());
    };
    step(100, 2, 600);
    step(599, 0, 600);
    // The third is 50 ms late. The time of the fourth goes back, so it is due at once. The delay
    // does not change the time of the last one.
    step(650, 2, 2100);
    bench.now = 2_100_000_000;
    assert_eq!(bench.run_to_end(&mut source).len(), 1);
}

/// Viewers see what the replay waits for, and until when. Control: datagrams that are due at once.
#[test]
fn a_jump_of_the_clock_is_a_limited_pause_that_viewers_see() {
    let pace = Pace::Original(std::time::Duration::from_secs(5));
    let (mut source, mut writer) = piped(Framing::Pcap, pace, 128);
    let day = 86_400_000_000_000;
    writer.write_all(&pcap(&[(day, 20), (day, 20), (9 * day, 20)])).unwrap();
    drop(writer);
    let mut bench = Bench::new(1 << 16, 128);
    let (got, fill) = bench.run(&mut source);
    assert_eq!((got.len(), fill), (2, Fill::Idle));
    let due = bench.now + 5_000_000_000;
    assert_eq!(bench.count(PumpCounter::SourceDue), due);
    let notices = bench.notices();
    assert!(notices.len() == 1 && notices[0].contains("jump forward by 192 h"), "{notices:?}");
    bench.now = due;
    assert_eq!(bench.run_to_end(&mut source).len(), 1);
    assert_eq!(bench.count(PumpCounter::SourceDue), 0);
}

/// Each capture with a single type has that one. A second type in the stream is reported once.
#[test]
fn the_link_type_of_a_capture_is_kept() {
    let mut bench = Bench::new(1 << 16, 128);
    feed(&mut bench, Framing::Len32Le, 64, &len32(&[make(9)]), 64);
    assert_eq!(bench.link_type(), LinkType::Unknown);
    let mut file = pcap(&[(1, 60)]);
    file[20] = 101;
    feed(&mut bench, Framing::Pcap, 128, &file, 9);
    assert_eq!(bench.link_type(), LinkType::Is(101));
    assert!(bench.notices().is_empty());
    for _ in 0..2 {
        feed(&mut bench, Framing::Pcap, 128, &pcap(&[(1, 60)]), 9);
        assert_eq!(bench.link_type(), LinkType::Mixed);
    }
    let notices = bench.notices();
    assert!(
        notices.len() == 1 && notices[0].contains("link type 1 after some of 101"),
        "{notices:?}"
    );
}

#[test]
fn a_long_skip_does_not_keep_the_pump() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&(100_000_000_u32).to_le_bytes()).unwrap();
    file.set_len(100_000_004).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    file.write_all(&len32(&[make(5)])).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut source = ByteStream::new("file", file.into(), Framing::Len32Le, Pace::Max, 64).unwrap();
    let mut bench = Bench::new(1 << 16, 64);
    assert_eq!(bench.round(&mut source), Fill::Took);
    assert!(matches!(source.state, State::Skip(left) if left > 90_000_000));
    let (got, fill) = bench.run(&mut source);
    assert_eq!((bytes_of(&got), fill), (vec![&make(5)[..]], Fill::Ended));
}
