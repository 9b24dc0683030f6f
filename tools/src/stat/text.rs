//! Figures as text: rates, shares, and help texts in lines of a given width.

use super::model::Rates;
use ringweir_cli::quantity::Rate;

/// `text` in lines of at most `width` characters, broken between words.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.into());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

/// "2.5 kdg/s  640 kB/s", or a dash.
pub fn rates(rates: Option<Rates>) -> String {
    rates.map_or("– dg/s  – B/s".into(), |r| {
        format!("{}  {}", Rate::Datagrams(r.datagrams), Rate::Bytes(r.bytes))
    })
}

/// A share as "12 %"; a very small one as "<1 %", so that only zero is shown as 0.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".into(),
        p if p < 1.0 => "<1 %".into(),
        p => format!("{p:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nothing_is_0_percent() {
        assert_eq!([0.0, 0.0001, 0.031, 1.2].map(percent), ["0 %", "<1 %", "3 %", "120 %"]);
    }
}
