//! A reader for the tests of real input: reads every datagram in place and prints a line for each,
//! and for each loss.

use clap::Parser;
use ringweir::{Cause, Item, Options};
use std::io::Write;

#[derive(Parser)]
struct Cli {
    /// Stream
    name: String,
    /// Add the 64-bit little-endian number at this offset (0 if the datagram is too short)
    #[arg(long)]
    number_at: Option<usize>,
}

fn main() {
    let cli = Cli::parse();
    let fail = |e: ringweir::Error| -> ! { panic!("{e}") };
    let mut reader = Options::new("ringtest-lines").attach(&cli.name).unwrap_or_else(|e| fail(e));
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    loop {
        match reader.next().unwrap_or_else(|e| fail(e)) {
            Item::Datagram(mut datagram) => {
                let looked = datagram.view(|payload| {
                    let crc = payload.fold(crc32fast::Hasher::new(), |mut hasher, piece| {
                        hasher.update(piece);
                        hasher
                    });
                    let mut number = [0; 8];
                    if let Some(at) = cli.number_at.filter(|at| at + 8 <= payload.len()) {
                        payload.copy_to(at, &mut number);
                    }
                    (crc.finalize(), u64::from_le_bytes(number))
                });
                // Torn: the next read is a gap that begins with it.
                let Ok((crc, number)) = looked else { continue };
                let (seq, len, original) =
                    (datagram.seq(), datagram.len(), datagram.original_len());
                let (cut, time) =
                    (u8::from(datagram.is_truncated()), datagram.source_time().unwrap_or(0));
                writeln!(out, "datagram {seq} {len} {original} {cut} {time} {crc} {number}")
            }
            Item::Gap(gap) => match gap.cause {
                Cause::Lapped => writeln!(out, "lapped {} {}", gap.first, gap.count),
                Cause::Upstream { layer, exact } => {
                    writeln!(out, "upstream {} {} {layer:?} {exact}", gap.first, gap.count)
                }
                Cause::SourceGone => writeln!(out, "gone {}", gap.first),
            },
            Item::Demoted(demoted) => writeln!(out, "demoted {}", demoted.held_ns),
            Item::Restarted(restart) => writeln!(out, "restarted {}", restart.generation),
            Item::Empty => {
                let _settled = reader.release().unwrap_or_else(|e| fail(e));
                reader.wait(None).unwrap_or_else(|e| fail(e));
                out.flush()
            }
            Item::Ended(_) => break,
        }
        .expect("stdout");
    }
    let account = reader.account();
    writeln!(
        out,
        "end {} {} {} {} {}",
        account.start,
        account.delivered,
        account.lost,
        reader.read_cursor(),
        account.upstream_lost
    )
    .expect("stdout");
    out.flush().expect("stdout");
}
