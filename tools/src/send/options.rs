//! The command line of `ringsend`.
//!
//! Contract: a wrong argument is refused here, by name; nothing is opened or attached.

use super::target::Target;
use crate::arguments::{From, Time};
use crate::completion;
use crate::wait::WaitOption;
use clap::{Parser, ValueEnum};
use ringweir_cli::quantity::Rate;

/// Sends the datagrams of a stream to a UDP address, unicast or multicast. One datagram of the
/// stream becomes one UDP datagram and is never cut: one that is too long is left out, counted and
/// reported. The stream does not wait for ringsend, unless --lossless is given: if the network or
/// --rate is slower than the stream, ringsend is lapped and reports the loss.
#[derive(Debug, Parser)]
#[command(name = "ringsend", version, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// Name of the stream, or the path of its control socket
    #[arg(value_name = "NAME", add = completion::stream())]
    pub(super) stream: String,
    /// udp:ADDRESS:PORT[@INTERFACE][,ttl=HOPS][,loop=on|off][,df][,sndbuf=SIZE]; df: never
    /// fragment; a datagram that the path does not carry is too long
    #[arg(long, value_name = "WHERE")]
    pub(super) to: Target,
    /// What to put in front of each datagram
    #[arg(long, value_enum, default_value_t = Header::None)]
    pub(super) header: Header,
    /// Rate limit in bytes (10MB/s), bits (1Mbit/s) or datagrams (976/s) per second
    #[arg(long, value_name = "RATE")]
    pub(super) rate: Option<Rate>,
    /// End after N datagrams
    #[arg(short = 'n', long = "count", value_name = "N")]
    pub(super) count: Option<u64>,
    /// Where to begin: oldest (the oldest datagram in the ring), latest (the next one published) or
    /// a seq
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    pub(super) from: From,
    /// Make the stream wait for this reader, so that it loses nothing, as long as its budget lasts
    /// (see ringd --lossless)
    #[arg(long)]
    pub(super) lossless: bool,
    /// Print at the end what was sent and lost (always printed after a loss, a failure or a signal)
    #[arg(long)]
    pub(super) stats: bool,
    /// Print the account at the end as one JSON object on stdout
    #[arg(long)]
    pub(super) json: bool,
    /// Print only errors of ringsend itself
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Name of this reader in ringstat
    #[arg(long, default_value = "ringsend")]
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
}

/// What goes in front of each datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Header {
    /// Nothing: the payload alone
    None,
    /// 16 bytes: kind, generation, channel and seq; losses are sent as records
    Seq,
}

const EXAMPLES: &str = "\
Examples:
  To a multicast group through one interface, across at most four routers:
    ringsend feed --to udp:239.1.2.3:26400@eth0,ttl=4
  To a ring on another machine, at most 10 MB/s (there: ringd run --name copy --source \
  udp:0.0.0.0:5000):
    ringsend fpga0 --to udp:10.0.0.7:5000 --rate 10MB/s
  With a header that shows the receiver every seq, and what is missing:
    ringsend fpga0 --to udp:10.0.0.7:5000 --header seq

The header, little-endian: 'R' 'S', kind (1 byte), detail (1), generation (2), channel (2), seq (8).
Kind 1: a datagram (detail 1: it was cut before it reached the ring). The other kinds carry an
8-byte count behind the header. Kind 2: count datagrams from seq on will never arrive (detail 0
lapped, 1 too long, 2 failed). Kind 3: count datagrams were lost before the ring, ahead of seq
(detail 1 device, 2 kernel, 3 broker; plus 128: at least that many). Kind 4: the device of the
source went away before seq.

Exit status: 0 ended well, 1 could not attach or send, or --timeout came before --count; 2 wrong \
usage;
3 detached by `ringctl detach`.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli =
            Cli::try_parse_from(["ringsend", "x", "--to", "udp:127.0.0.1:9", "--rate", "10MB/s"])
                .unwrap();
        assert_eq!((cli.rate, cli.header), (Some(Rate::Bytes(1e7)), Header::None));
        assert!(Cli::try_parse_from(["ringsend", "x"]).is_err());
        assert!(
            Cli::try_parse_from(["ringsend", "x", "--to", "udp:127.0.0.1:9", "--rate", "fast"])
                .is_err()
        );
    }
}
