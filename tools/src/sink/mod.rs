//! The output formats of `ringcat`: one file per format, and one line in the list below.
//!
//! Contract: a sink only arranges bytes in the output buffer. It never writes, blocks or reads the
//! clock. The whole payload is already in that buffer, copied once from the ring.

mod format;
mod hexdump;
mod len32le;
mod none;
mod pcap;
mod raw;

pub use format::{About, Capture, Format, Sink};

/// All formats. A new one is a file beside this one and a line here.
pub const FORMATS: &[&Format] =
    &[&raw::FORMAT, &hexdump::FORMAT, &len32le::FORMAT, &pcap::FORMAT, &none::FORMAT];

/// The format of this name.
pub fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|f| f.name == name).copied()
}

#[cfg(test)]
pub fn render(name: &str, capture: &Capture, datagrams: &[(About, &[u8])]) -> Vec<u8> {
    let mut sink = (find(name).expect("a format").make)();
    let mut out = Vec::new();
    sink.begin(&mut out, capture);
    for (about, bytes) in datagrams {
        sink.before(&mut out, about);
        let start = out.len();
        out.extend_from_slice(bytes);
        sink.after(&mut out, start, about);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURE: Capture = Capture { link_type: 1, max_datagram: 1500 };
    const ABOUT: About =
        About { seq: 7, len: 3, original_len: 9, channel: 2, time: 1_700_000_000_123_456_789 };

    #[test]
    fn every_format_arranges_the_same_two_datagrams() {
        let two: [(About, &[u8]); 2] = [(ABOUT, b"abc"), (About { len: 0, seq: 8, ..ABOUT }, b"")];
        assert_eq!(render("raw", &CAPTURE, &two), b"abc");
        assert_eq!(render("len32le", &CAPTURE, &two), b"\x03\0\0\0abc\0\0\0\0");
        assert_eq!(render("none", &CAPTURE, &two), b"");
        let hex = String::from_utf8(render("hex", &CAPTURE, &two)).unwrap();
        assert!(
            hex.starts_with("seq 7  3 B of 9  ch 2  2023-11-14T22:13:20.123456789Z\n"),
            "{hex}"
        );
        assert!(hex.contains("00000000  61 62 63") && hex.contains("|abc|\n"), "{hex}");
    }

    #[test]
    fn a_capture_has_nanoseconds_and_original_lengths() {
        let out = render("pcap", &Capture { link_type: 147, ..CAPTURE }, &[(ABOUT, b"abc")]);
        let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
        // Global header: nanosecond magic, version 2.4, no zone, snap length, link type.
        assert_eq!((word(0), word(4), word(8), word(12)), (0xA1B2_3C4D, 0x0004_0002, 0, 0));
        assert_eq!((word(16), word(20)), (262_144, 147));
        assert_eq!((word(24), word(28), word(32), word(36)), (1_700_000_000, 123_456_789, 3, 9));
        assert_eq!(&out[40..], b"abc");
    }

    #[test]
    fn names_are_unique() {
        for (i, format) in FORMATS.iter().enumerate() {
            assert!(FORMATS[..i].iter().all(|f| f.name != format.name), "{}", format.name);
        }
    }
}
