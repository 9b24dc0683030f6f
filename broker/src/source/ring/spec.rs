//! The argument of `ring:`, and where the named stream is.

use crate::source::contract::SourceError;
use ringweir::Start;
use ringweir_cli::quantity::Rate;
use ringweir_proto::os::paths;
use std::fmt;
use std::path::{Path, PathBuf};

/// The argument of the source.
#[derive(Debug, PartialEq)]
pub(super) struct Spec {
    pub(super) stream: String,
    /// Empty: all.
    pub(super) channels: Vec<u16>,
    pub(super) take: Take,
    pub(super) from: Start,
}

/// Which of the datagrams of the chosen channels are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Take {
    All,
    /// The first of each channel, and then each of this number.
    Every(u32),
    /// So many per second.
    PerSecond(f64),
}

/// For the start message.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {:?}", self.stream)?;
        for (i, channel) in self.channels.iter().enumerate() {
            write!(f, "{} {channel}", if i == 0 { ", channel" } else { " and" })?;
        }
        match self.take {
            Take::All => Ok(()),
            Take::Every(number) => write!(f, ", one in {number}"),
            Take::PerSecond(rate) => write!(f, ", up to {rate} per second"),
        }
    }
}

/// Splits `NAME[,OPTION…]`.
pub(super) fn parse(argument: &str) -> Result<Spec, SourceError> {
    let mut parts = argument.split(',');
    let stream = parts.next().unwrap_or_default().to_owned();
    if stream.is_empty() {
        return Err(SourceError::new("it takes the name of a stream, or the path of its socket"));
    }
    if !stream.contains('/') {
        paths::check_name(&stream).map_err(SourceError::new)?;
    }
    let mut spec = Spec { stream, channels: Vec::new(), take: Take::All, from: Start::Latest };
    for option in parts {
        let wrong = |e: &dyn std::fmt::Display| SourceError(format!("{option:?}: {e}"));
        let take = match option.split_once('=').unwrap_or((option, "")) {
            ("channel", list) => {
                let numbers = list.split('+').map(str::parse::<u16>);
                spec.channels
                    .extend(numbers.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(&e))?);
                continue;
            }
            ("from", "oldest") => {
                spec.from = Start::Oldest;
                continue;
            }
            ("from", "latest") => {
                spec.from = Start::Latest;
                continue;
            }
            ("every", number) => match number.parse().map_err(|e| wrong(&e))? {
                0 => return Err(wrong(&"at least 1: every=10 takes one in ten")),
                number => Take::Every(number),
            },
            ("rate", rate) => match rate.parse::<Rate>().map_err(|e| wrong(&e))? {
                Rate::Datagrams(rate) if rate > 0.0 => Take::PerSecond(rate),
                _ => return Err(wrong(&"datagrams per second, such as rate=10/s")),
            },
            _ => {
                return Err(SourceError(format!(
                    "unknown option {option:?}; there are channel=, every=, rate=, from=oldest and \
                    from=latest"
                )));
            }
        };
        if spec.take != Take::All {
            return Err(SourceError::new("every= and rate= are given once, and one of them only"));
        }
        spec.take = take;
    }
    Ok(spec)
}

/// What to attach to, for the stream whose socket is `own`: a stream beside it, else what a reader
/// finds under this name.
///
/// # Errors
/// If it is that stream itself.
pub(super) fn locate(name: &str, own: &Path) -> Result<String, SourceError> {
    let itself = || {
        SourceError(format!(
            "{name} is this stream itself: a stream cannot be fed from its own ring"
        ))
    };
    if name.contains('/') {
        return if same_file(Path::new(name), own) { Err(itself()) } else { Ok(name.into()) };
    }
    let beside = paths::socket_path(own.parent().unwrap_or(Path::new(".")), name);
    if beside == own {
        return Err(itself());
    }
    let elsewhere =
        || paths::search_dirs().iter().any(|dir| paths::socket_path(dir, name).exists());
    if !beside.exists() && elsewhere() {
        return Ok(name.into());
    }
    Ok(beside.display().to_string())
}

/// Whether both paths name the same file, which need not exist.
fn same_file(a: &Path, b: &Path) -> bool {
    let directory = |path: &Path| -> Option<PathBuf> {
        let directory = path.parent().filter(|d| *d != Path::new(""));
        std::fs::canonicalize(directory.unwrap_or(Path::new("."))).ok()
    };
    a.file_name() == b.file_name() && directory(a).is_some() && directory(a) == directory(b)
        || std::fs::canonicalize(a).is_ok_and(|a| Some(a) == std::fs::canonicalize(b).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(argument: &str) -> String {
        parse(argument).unwrap_err().to_string()
    }

    #[test]
    fn arguments_come_apart() {
        let spec = parse("daq0").unwrap();
        assert_eq!(
            (spec.stream.as_str(), spec.take, spec.from),
            ("daq0", Take::All, Start::Latest)
        );
        let spec = parse("/run/x/daq0.sock,channel=0+3,channel=7,every=10,from=oldest").unwrap();
        assert_eq!(spec.channels, [0, 3, 7]);
        assert_eq!((spec.take, spec.from), (Take::Every(10), Start::Oldest));
        assert_eq!(parse("daq0,rate=10/s").unwrap().take, Take::PerSecond(10.0));
        assert!(refused("").contains("takes the name of a stream"));
        assert!(refused("a b").contains("a b"));
        assert!(refused("daq0,channel=x").contains("\"channel=x\""));
        assert!(refused("daq0,channel=65536").contains("\"channel=65536\""));
        assert!(refused("daq0,every=0").contains("at least 1"));
        assert!(refused("daq0,rate=1MB/s").contains("datagrams per second"));
        assert!(refused("daq0,every=2,rate=1/s").contains("one of them only"));
        assert!(refused("daq0,depth=2").contains("unknown option \"depth=2\""));
    }

    /// Whatever the way to its own socket, a stream does not read itself. Control: one beside it.
    #[test]
    fn a_stream_cannot_read_itself() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("self.sock");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("way")).unwrap();
        std::os::unix::fs::symlink(&own, dir.path().join("other.sock")).unwrap();
        std::fs::write(&own, "").unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        for name in ["self", &path("self.sock"), &path("way/self.sock"), &path("other.sock")] {
            let said = locate(name, &own).unwrap_err().to_string();
            assert!(said.contains("cannot be fed from its own ring"), "{said}");
        }
        assert_eq!(locate("near", &own).unwrap(), path("near.sock"));
        assert_eq!(locate(&path("way/near.sock"), &own).unwrap(), path("way/near.sock"));
    }
}
