//! The command line of `ringcat`, and which format it means.
//!
//! Contract: a wrong argument is refused here, by name; nothing is opened or attached.

use crate::arguments::{From, Time};
use crate::completion;
use crate::sink;
use crate::usage::Usage;
use crate::wait::WaitOption;
use clap::{ArgAction, Parser};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Writes the datagrams of a stream to standard output or a file, or verifies them.
/// Losses are reported on stderr as they happen. The stream does not wait for ringcat, unless
/// --lossless is given: if the output is slow, ringcat is lapped and reports the loss.
#[derive(Debug, Parser)]
#[command(name = "ringcat", version, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// Name of the stream, or the path of its control socket
    #[arg(value_name = "NAME", add = completion::stream())]
    pub(super) stream: String,
    /// End after N datagrams
    #[arg(short = 'n', long = "count", value_name = "N")]
    pub(super) count: Option<u64>,
    /// Write only datagrams of this channel (repeatable); those of others are checked and counted
    #[arg(long, value_name = "N", conflicts_with = "unix")]
    channel: Vec<u16>,
    /// Where to begin: oldest (the oldest datagram in the ring), latest (the next one published) or
    /// a seq
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    pub(super) from: From,
    /// How to write datagrams [default: pcap into a FILE.pcap, hex on a terminal, none with
    /// --verify, else raw]
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_parser = clap::builder::PossibleValuesParser::new(formats())
    )]
    format: Option<String>,
    /// Short for --format len32le
    #[arg(long, conflicts_with = "format")]
    len_prefix: bool,
    /// Link type in a capture: EN10MB, RAW, USER0 … USER15 or a number from
    /// tcpdump.org/linktypes.html [default: that of the source, EN10MB if it has none]
    #[arg(long, value_name = "TYPE")]
    pub(super) link_type: Option<LinkType>,
    /// Write to this file instead of standard output, which is also called -
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: Option<PathBuf>,
    /// Serve a socket instead: seqpacket[,mode=0600]:PATH. Each client is a reader of its own and
    /// gets one datagram per read; --count and --from apply to each client, and a slow client slows
    /// no other
    #[arg(
        long,
        value_name = "PLACE",
        conflicts_with_all = ["write", "format", "len_prefix", "link_type", "until_idle", "force"]
    )]
    pub(super) unix: Option<SocketPath>,
    /// With --unix: end when the last client has disconnected
    #[arg(long, requires = "unix")]
    pub(super) once: bool,
    /// Check every byte of a test stream (ringgen, gen:), and that exactly the datagrams reported
    /// as lost are missing
    #[arg(long)]
    pub(super) verify: bool,
    /// Make the stream wait for this reader, so that it loses nothing, as long as its budget lasts
    /// (see ringd --lossless)
    #[arg(long)]
    pub(super) lossless: bool,
    /// Print at the end what was delivered and lost (always printed with --verify, after a loss and
    /// after a signal)
    #[arg(long)]
    pub(super) stats: bool,
    /// Print only errors of ringcat itself; a failed --verify then shows only in the exit status
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Name of this reader in ringstat
    #[arg(long, default_value = "ringcat")]
    pub(super) label: String,
    /// Poll instead of sleeping: lowest latency, uses one whole processor
    #[arg(long)]
    pub(super) spin: bool,
    #[command(flatten)]
    pub(super) wait: WaitOption,
    /// End when nothing has arrived for TIME, such as 500ms
    #[arg(long, value_name = "TIME")]
    pub(super) until_idle: Option<Time>,
    /// End after TIME, such as 10s; exit status 1 if --count was not reached
    #[arg(long, value_name = "TIME")]
    pub(super) timeout: Option<Time>,
    /// Write bytes to a terminal anyway
    #[arg(long, action = ArgAction::SetTrue)]
    force: bool,
}

const EXAMPLES: &str = "\
Examples:
  Show the next two datagrams:
    ringcat fpga0 -n 2
  Verify a test stream, byte by byte, from the oldest datagram in the ring:
    ringcat demo --from oldest -n 100000 --verify
  Only channels 2 and 5:
    ringcat daq0 --channel 2 --channel 5
  Capture for Wireshark:
    ringcat tap0 -w tap0.pcap      or      ringcat tap0 --format pcap | wireshark -k \
    -i -
  A socket for standard tools, one datagram per read, any number of clients:
    ringcat fpga0 --unix seqpacket:/tmp/fpga0 &          then          socat -u \
    UNIX-CONNECT:/tmp/fpga0,type=5 - | xxd
  Into another ring:
    ringcat daq0 --len-prefix | ringd run --name copy0 --source stdin:len32le

Exit status: 0 ended well, 1 could not attach or write, --verify failed, or --timeout
came before --count; 2 wrong usage; 3 detached by `ringctl detach`.";

fn formats() -> Vec<clap::builder::PossibleValue> {
    sink::FORMATS.iter().map(|f| clap::builder::PossibleValue::new(f.name).help(f.about)).collect()
}

/// Link type of a capture, by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkType(pub(super) u32);

impl FromStr for LinkType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("DLT_").or(upper.strip_prefix("LINKTYPE_")).unwrap_or(&upper);
        let user = name.strip_prefix("USER").and_then(|n| n.parse().ok()).filter(|n: &u32| *n < 16);
        let known = match name {
            "EN10MB" | "ETHERNET" => Some(1),
            "RAW" => Some(101),
            "LINUX_SLL" => Some(113),
            "IPV4" => Some(228),
            "IPV6" => Some(229),
            "CAN_SOCKETCAN" => Some(227),
            _ => user.map(|n| 147 + n).or(name.parse().ok().filter(|n| *n <= 0xFFFF)),
        };
        known.map(Self).ok_or_else(|| {
            "use EN10MB, RAW, LINUX_SLL, IPV4, IPV6, USER0 … USER15 or a number up to 65535".into()
        })
    }
}

impl Cli {
    /// Whether datagrams of `channel` are not to be written.
    pub(super) fn leaves_out(&self, channel: u16) -> bool {
        !self.channel.is_empty() && !self.channel.contains(&channel)
    }

    /// The file to write. `None`: standard output.
    pub(super) fn file(&self) -> Option<&Path> {
        self.write.as_deref().filter(|path| *path != Path::new("-"))
    }
}

/// Whether a file is named like a capture of a kind that is not written.
fn is_capture(file: Option<&Path>) -> bool {
    let name = file.and_then(Path::file_name).map(|name| name.to_string_lossy().to_lowercase());
    name.is_some_and(|name| {
        [".pcapng", ".ntar", ".pcap.", ".cap."].iter().any(|part| name.contains(part))
    })
}

/// The format to write.
pub(super) fn choose(cli: &Cli, terminal: bool) -> Result<&'static sink::Format, Usage> {
    let file = cli.file();
    let to_terminal = terminal && file.is_none();
    let kind = file.and_then(Path::extension).and_then(|kind| kind.to_str()).unwrap_or_default();
    let name = match (&cli.format, cli.len_prefix) {
        (Some(name), _) => name.as_str(),
        (None, true) => "len32le",
        (None, false) => match kind.to_ascii_lowercase().as_str() {
            "pcap" | "cap" | "dmp" => "pcap",
            "pcapng" | "ntar" | "gz" | "xz" | "zst" | "lz4" if is_capture(file) => {
                return Err(Usage(format!(
                    "-w {}: captures of this kind are not written: name it .pcap, or say with \
                    --format what it shall hold",
                    file.unwrap_or(Path::new("")).display()
                )));
            }
            _ if cli.verify && file.is_none() => "none",
            _ if to_terminal && !cli.force => "hex",
            _ => "raw",
        },
    };
    let wanted = sink::find(name).filter(|f| cli.force || !(f.binary && to_terminal));
    wanted.ok_or_else(|| {
        Usage(
            "refusing to write bytes to a terminal: use --format hex, -w FILE or a pipe, or add \
            --force"
                .into(),
        )
    })
}

/// The socket of `--unix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketPath {
    pub(super) mode: u32,
    pub(super) path: String,
}

impl FromStr for SocketPath {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, path) = text
            .split_once(':')
            .filter(|(_, path)| !path.is_empty())
            .ok_or("use seqpacket:PATH")?;
        let mut mode = 0o600;
        for (i, word) in kind.split(',').enumerate() {
            match (i, word.split_once('=').unwrap_or((word, ""))) {
                (0, ("seqpacket", "")) => {}
                (0, _) => {
                    return Err(format!("unknown kind of socket {word:?}: use seqpacket:PATH"));
                }
                (_, ("mode", octal)) => {
                    let parsed = u32::from_str_radix(octal, 8).ok().filter(|m| *m <= 0o777);
                    mode = parsed
                        .ok_or_else(|| format!("mode={octal}: use an octal mode such as 0660"))?;
                }
                _ => return Err(format!("unknown option {word:?}; there is mode=")),
            }
        }
        Ok(Self { mode, path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringweir::Start;
    use std::time::Duration;

    fn cli(line: &str) -> Cli {
        Cli::try_parse_from(line.split_whitespace()).unwrap()
    }

    fn name(line: &str, terminal: bool) -> Option<&'static str> {
        choose(&cli(line), terminal).ok().map(|f| f.name)
    }

    #[test]
    fn the_format_follows_the_terminal_unless_it_is_given() {
        assert_eq!(name("ringcat x", true), Some("hex"));
        assert_eq!(name("ringcat x", false), Some("raw"));
        assert_eq!(name("ringcat x -w f", true), Some("raw"));
        assert_eq!(name("ringcat x --verify", true), Some("none"));
        assert_eq!(name("ringcat x --verify --format raw", false), Some("raw"));
        assert_eq!(name("ringcat x --len-prefix", false), Some("len32le"));
        for line in ["--format raw", "--format pcap", "--len-prefix"] {
            assert_eq!(name(&format!("ringcat x {line}"), true), None, "{line}");
            assert!(name(&format!("ringcat x {line} --force"), true).is_some(), "{line}");
            assert!(name(&format!("ringcat x {line} -w f"), true).is_some(), "{line}");
        }
    }

    /// Control: a format that is given counts more than the name of the file.
    #[test]
    fn the_format_follows_the_name_of_the_file() {
        for (line, format) in [
            ("ringcat x -w a.pcap", Some("pcap")),
            ("ringcat x -w a.b/C.PCAP", Some("pcap")),
            ("ringcat x --verify -w a.cap", Some("pcap")),
            ("ringcat x -w a.pcap --format raw", Some("raw")),
            ("ringcat x -w a.pcap --len-prefix", Some("len32le")),
            ("ringcat x -w pcap", Some("raw")),
            ("ringcat x -w a.gz", Some("raw")),
            ("ringcat x -w a.pcapng", None),
            ("ringcat x -w a.pcap.gz", None),
            ("ringcat x -w a.pcapng --format pcap", Some("pcap")),
        ] {
            assert_eq!(name(line, true), format, "{line}");
        }
        let refused = choose(&cli("ringcat x -w a.pcapng"), false).err().unwrap().to_string();
        assert!(refused.contains("-w a.pcapng") && refused.contains("name it .pcap"), "{refused}");
    }

    /// Control: a file whose name only contains it.
    #[test]
    fn a_dash_is_standard_output() {
        assert_eq!(cli("ringcat x -w -").file(), None);
        assert_eq!(name("ringcat x -w -", true), Some("hex"));
        assert_eq!(name("ringcat x -w -", false), Some("raw"));
        assert_eq!(cli("ringcat x -w ./-").file(), Some(Path::new("./-")));
    }

    #[test]
    fn starts_times_and_link_types_are_parsed() {
        assert_eq!(cli("ringcat x").from, From(Start::Latest));
        assert_eq!(cli("ringcat x --from oldest").from, From(Start::Oldest));
        assert_eq!(cli("ringcat x --from 77").from, From(Start::Seq(77)));
        assert_eq!(
            cli("ringcat x --timeout 2 --until-idle 500ms").timeout,
            Some(Time(Duration::from_secs(2)))
        );
        for (text, number) in [("en10mb", 1), ("USER3", 150), ("DLT_RAW", 101), ("147", 147)] {
            assert_eq!(text.parse(), Ok(LinkType(number)), "{text}");
        }
        for bad in [
            "ringcat x --from yesterday",
            "ringcat x --link-type USER16",
            "ringcat x --format xml",
            "ringcat",
        ] {
            assert!(Cli::try_parse_from(bad.split_whitespace()).is_err(), "{bad}");
        }
    }

    #[test]
    fn channels_are_chosen() {
        let leaves_out = |line: &str| [0, 2, 5].map(|channel| cli(line).leaves_out(channel));
        assert_eq!(leaves_out("ringcat x --channel 2 --channel 5"), [true, false, false]);
        assert_eq!(leaves_out("ringcat x"), [false; 3], "the control");
        assert!(Cli::try_parse_from(["ringcat", "x", "--channel", "65536"]).is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn socket_paths_are_parsed_and_bad_ones_refused_by_name() {
        assert_eq!("seqpacket:/a:b".parse(), Ok(SocketPath { mode: 0o600, path: "/a:b".into() }));
        assert_eq!(
            "seqpacket,mode=0666:x".parse(),
            Ok(SocketPath { mode: 0o666, path: "x".into() })
        );
        for (text, says) in [
            ("/tmp/x", "use seqpacket:PATH"),
            ("seqpacket:", "use seqpacket:PATH"),
            ("stream:/x", "kind of socket \"stream\""),
            ("seqpacket,mode=9:/x", "mode=9: use an octal"),
            ("seqpacket,senders=3:/x", "\"senders=3\"; there is mode="),
        ] {
            let error = text.parse::<SocketPath>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
