//! The configuration file: a run directory and any number of streams.

use super::config::StreamConfig;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Largest file that is read.
const LARGEST: u64 = 1 << 20;

/// A configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileConfig {
    /// Directory of the control sockets; `--run-dir` overrides it.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    /// What streams that a reload adds may need and the others do not: kinds of source, and
    /// directories of their files.
    #[serde(default)]
    pub later: Vec<String>,
    /// The streams.
    #[serde(rename = "stream", default)]
    pub streams: Vec<StreamConfig>,
}

impl FileConfig {
    /// Reads and checks a file. Errors contain the path, and line and key where there are any.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let content = read(path).map_err(|e| anyhow::anyhow!("cannot read {shown}: {e}"))?;
        Self::parse(&content).map_err(|e| anyhow::anyhow!("{shown}: {e}"))
    }

    fn parse(content: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(content).map_err(|e| match single_table(content) {
            Some(line) => anyhow::anyhow!(
                "line {line}: [stream] is one table; write [[stream]], with two brackets, at the \
                beginning of each stream"
            ),
            None => e.into(),
        })?;
        anyhow::ensure!(!config.streams.is_empty(), "it has no [[stream]]: nothing to serve");
        for (i, stream) in config.streams.iter().enumerate() {
            let twice = config.streams[..i].iter().any(|s| s.name == stream.name);
            anyhow::ensure!(!twice, "stream {:?} appears twice", stream.name);
        }
        Ok(config)
    }
}

/// A regular file of at most [`LARGEST`] bytes. Anything else could block the thread that reads
/// it: a pipe, for ever; the thread also serves readers when the file is read again.
fn read(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};
    use std::os::unix::fs::OpenOptionsExt;
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = std::fs::File::options().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = String::new();
    if file.take(LARGEST + 1).read_to_string(&mut content)? as u64 > LARGEST {
        let text = format!("it has more than {LARGEST} bytes");
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(content)
}

/// The line with `[stream]`, which is meant to be `[[stream]]`. The parser only says that a list
/// was expected, or that the second one is there twice.
fn single_table(content: &str) -> Option<usize> {
    let is_single = |line: &str| {
        let text = line.split('#').next().unwrap_or_default().trim();
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| inner.trim() == "stream")
    };
    content.lines().position(is_single).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::config::Linger;
    use ringweir_cli::quantity::{Bytes, Extent};

    const GOOD: &str = "run-dir = '/tmp/x'\n[[stream]]\nname = 'a'\nsource = 'gen:'\ndepth = \
        '3s'\nrate = '1MB/s'\nmax-datagram = 1500\nmeta = ['channels=8']\n[[stream]]\nname = \
        'b'\nsource = 'gen:'\nlinger = 'forever'\n";

    #[test]
    fn a_file_with_every_kind_of_value() {
        let config = FileConfig::parse(GOOD).unwrap();
        let [a, b] = &config.streams[..] else { panic!("two streams") };
        assert_eq!(a.depth, Some(Extent::Seconds(3.0)));
        assert_eq!(
            (a.max_datagram, a.readers_max, a.mode().unwrap()),
            (Some(Bytes(1500)), 64, 0o660)
        );
        assert_eq!(a.metadata().unwrap(), [("channels".to_string(), "8".to_string())]);
        assert_eq!((b.linger, b.depth), (Linger::Forever, None));
        a.check().unwrap();
        let listed = StreamConfig { admin_gid: vec![7], ..a.clone() };
        assert_eq!((listed.mode().unwrap(), listed.access(None).administer.gids), (0o666, vec![7]));
    }

    #[test]
    fn errors_name_the_key_and_its_line() {
        for (bad, says) in [
            (GOOD.replace("depth", "detph"), vec!["detph", "line 5"]),
            (GOOD.replace("'3s'", "'3 parsecs'"), vec!["parsecs", "line 5"]),
            (GOOD.replace("'b'", "'a'"), vec!["\"a\" appears twice"]),
            ("".into(), vec!["no [[stream]]"]),
            (GOOD.replace("1500", "true"), vec!["boolean"]),
            (GOOD.replace("[[stream]]", "[stream]"), vec!["line 2", "write [[stream]]"]),
            ("[ stream ] # one\nname = 'a'\nsource = 'gen:'".into(), vec!["line 1", "[[stream]]"]),
            (GOOD.replace("depth", "allow-uid = ['nosuchuser']\ndepth"), vec!["line 5", "id -u"]),
        ] {
            let error = format!("{:#}", FileConfig::parse(&bad).unwrap_err());
            assert!(says.iter().all(|s| error.contains(s)), "{error}");
        }
        let base = FileConfig::parse(GOOD).unwrap().streams.remove(0);
        for (change, says) in [
            (StreamConfig { name: "a b".into(), ..base.clone() }, "\"a b\""),
            (StreamConfig { readers_max: 0, ..base.clone() }, "--readers-max 0"),
            (StreamConfig { wait_readers: 65, ..base.clone() }, "--wait-readers 65"),
            (StreamConfig { readers_per_user: Some(0), ..base.clone() }, "--readers-per-user 0"),
            (StreamConfig { socket_mode: Some("0999".into()), ..base.clone() }, "0999"),
            (StreamConfig { meta: vec!["x".into()], ..base.clone() }, "KEY=VALUE"),
        ] {
            let error = change.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = StreamConfig { group: Some("nosuchgroup".into()), ..base }
            .gid()
            .unwrap_err()
            .to_string();
        assert!(error.contains("groupadd nosuchgroup"), "{error}");
    }
}
