//! A hexdump for people: a line about each datagram, then its bytes as `hexdump -C` shows them.

use super::format::{About, Format, Sink};
use std::io::Write;

pub const FORMAT: Format = Format {
    name: "hex",
    about: "a hexdump with a line about each datagram (default on a terminal)",
    binary: false,
    has_link_type: false,
    make: || Box::new(Hexdump::default()),
};

#[derive(Default)]
struct Hexdump {
    payload: Vec<u8>,
}

impl Sink for Hexdump {
    fn after(&mut self, out: &mut Vec<u8>, start: usize, about: &About) {
        self.payload.clear();
        self.payload.extend(out.drain(start..));
        // Writing to a Vec cannot fail.
        let _infallible = self.print(out, about);
    }
}

impl Hexdump {
    fn print(&self, out: &mut Vec<u8>, about: &About) -> std::io::Result<()> {
        write!(out, "seq {}  {} B", about.seq, about.len)?;
        if about.original_len != about.len {
            write!(out, " of {}", about.original_len)?;
        }
        if about.channel != 0 {
            write!(out, "  ch {}", about.channel)?;
        }
        writeln!(out, "  {}", Date(about.time))?;
        for (row, bytes) in self.payload.chunks(16).enumerate() {
            write!(out, "{:08x} ", row * 16)?;
            for i in 0..16 {
                if i == 8 {
                    out.push(b' ');
                }
                match bytes.get(i) {
                    Some(byte) => write!(out, " {byte:02x}")?,
                    None => out.extend_from_slice(b"   "),
                }
            }
            out.extend_from_slice(b"  |");
            out.extend(bytes.iter().map(|b| if (b' '..=b'~').contains(b) { *b } else { b'.' }));
            out.extend_from_slice(b"|\n");
        }
        Ok(())
    }
}

/// ns since 1970 as a UTC date.
struct Date(u64);

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, ns) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Days since 1970 to a date, by the 400-year cycle counted from the first of March of year
        // 0.
        let z = days + 719_468;
        let (era, day) = (z / 146_097, z % 146_097);
        let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let m = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * m + 2) / 5 + 1;
        let month = if m < 10 { m + 3 } else { m - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (h, min, s) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(f, "{year:04}-{month:02}-{day_of_month:02}T{h:02}:{min:02}:{s:02}.{ns:09}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::Date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (1_798_761_599, "2026-12-31T23:59:59"),
        ] {
            assert_eq!(Date(seconds * 1_000_000_000 + 5).to_string(), format!("{text}.000000005Z"));
        }
    }
}
