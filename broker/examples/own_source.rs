//! A source of one's own, served by a broker inside the program: the lines of a file as it grows,
//! one datagram each.
//!
//! ```sh
//! cargo run -p ringweir-broker --example own_source -- syslog /var/log/syslog &
//! ringcat syslog -f raw
//! ```

use ringweir_broker::source::{Arrival, Fill, Intake, Source, SourceError, WaitFor};
use ringweir_broker::{Broker, StreamOptions};
use std::fs::File;
use std::io::{BufRead, BufReader};

/// The lines of a file. At its end, more is looked for ten times a second.
struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
    look_again: u64,
}

impl Source for Lines {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        while intake.has_room() {
            self.file.read_until(b'\n', &mut self.line).map_err(SourceError::new)?;
            if !self.line.ends_with(b"\n") {
                self.look_again = intake.now() + 100_000_000;
                return Ok(Fill::Idle);
            }
            let len = self.line.len().min(intake.max_datagram());
            intake.claim(len).map_err(SourceError::new)?.write(0, &self.line[..len]);
            let original_len = if len < self.line.len() { self.line.len() as u32 } else { 0 };
            intake.commit(0, len, Arrival { original_len, ..Arrival::default() });
            self.line.clear();
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: None, until: Some(self.look_again) }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [name, path] = &words[..] else { return Err("usage: own_source STREAM FILE".into()) };
    let file = BufReader::new(File::open(path)?);
    let source = Lines { file, line: Vec::new(), look_again: 0 };
    let broker = Broker::builder().stream(StreamOptions::new(name), source).start()?;
    eprintln!("{}", broker.summaries().join("\n"));
    Ok(broker.wait()?)
}
