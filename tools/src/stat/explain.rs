//! `ringstat --columns`: every column, word and JSON key with its explanation.
//!
//! Contract: the text is made from the lists by which the other modules show their figures, so
//! everything that is shown is explained here.

use super::columns::{COLUMNS, JSON_WORDS, STREAM_WORDS};
use super::model::Layer;
use super::text::wrap;
use super::{latency, why};
use ringweir_proto::stats::{PumpCounter, ReaderFact, StreamFact};

/// All explanations, for `--columns`.
pub fn explained(width: usize) -> String {
    let mut out = String::new();
    let mut section = |title: &str, rows: Vec<(String, &str)>| {
        let first = rows.iter().map(|(word, _)| word.chars().count()).max().unwrap_or(0);
        out.push_str(&format!("{title}\n"));
        for (word, help) in rows {
            let mut lead = format!("  {word:first$}  ");
            for line in wrap(help, width.saturating_sub(first + 4).max(30)) {
                out.push_str(&format!("{lead}{line}\n"));
                lead = " ".repeat(first + 4);
            }
        }
        out.push('\n');
    };
    let words = |list: &[(&'static str, &'static str)]| {
        list.iter().map(|(w, h)| (w.to_string(), *h)).collect::<Vec<_>>()
    };
    let mut stream = words(STREAM_WORDS);
    stream.extend(Layer::ALL.map(|l| (format!("  {}", l.key()), l.definition())));
    section("Line of a stream:", stream);
    section(
        "Columns of its readers:",
        COLUMNS.iter().map(|c| (c.head.to_string(), c.help)).collect(),
    );
    section("JSON (--json):", words(JSON_WORDS));
    section("JSON of --why:", words(why::JSON_WORDS));
    section("JSON of --latency:", words(latency::JSON_WORDS));
    section(
        "JSON, counters:",
        PumpCounter::ALL.iter().map(|f| (f.key().into(), f.help())).collect(),
    );
    section("JSON, facts:", StreamFact::ALL.iter().map(|f| (f.key().into(), f.help())).collect());
    section(
        "JSON, readers[]:",
        ReaderFact::ALL.iter().map(|f| (f.key().into(), f.help())).collect(),
    );
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_word_and_figure_is_explained() {
        let text = explained(100);
        let words = COLUMNS.iter().map(|c| c.head).chain(STREAM_WORDS.iter().map(|w| w.0));
        let keys = PumpCounter::ALL.iter().map(|f| f.key());
        let keys = keys
            .chain(StreamFact::ALL.iter().map(|f| f.key()))
            .chain(ReaderFact::ALL.iter().map(|f| f.key()));
        for word in words.chain(Layer::ALL.map(Layer::key)).chain(keys) {
            assert!(
                text.lines().any(|l| l.trim_start().starts_with(word)),
                "{word} is not explained:\n{text}"
            );
        }
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    }
}
