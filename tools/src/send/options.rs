//! The command line of `ringsend`.
//!
//! Contract: what is typed is understood here or refused by name; nothing is opened or attached.

use super::target::Target;
use crate::arguments::{From, Time};
use crate::wait::WaitOption;
use clap::{Parser, ValueEnum};
use ringweir_cli::quantity::Rate;

/// Sends the datagrams of a stream to a UDP address, unicast or multicast.
///
/// One datagram of the stream is one UDP datagram, never cut: one that is too long is left out,
/// counted and said. A stream never waits for ringsend: if the network or --rate is slower than the
/// stream, ringsend is lapped and says so.
#[derive(Debug, Parser)]
#[command(name = "ringsend", version, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// Name of the stream, or the path of its control socket
    #[arg(value_name = "NAME")]
    pub(super) stream: String,
    /// udp:ADDRESS:PORT[@INTERFACE][,ttl=HOPS][,loop=on|off][,df][,sndbuf=SIZE]; df: no fragments,
    /// what is longer than the way carries is too long
    #[arg(long, value_name = "WHERE")]
    pub(super) to: Target,
    /// What goes in front of each datagram
    #[arg(long, value_enum, default_value_t = Header::None)]
    pub(super) header: Header,
    /// At most so many bytes (10MB/s), bits (1Mbit/s) or datagrams (976/s) per second
    #[arg(long, value_name = "RATE")]
    pub(super) rate: Option<Rate>,
    /// End after so many datagrams
    #[arg(short = 'n', long = "count", value_name = "N")]
    pub(super) count: Option<u64>,
    /// Where to begin: oldest (what the ring still holds), latest (what comes from now on) or a seq
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    pub(super) from: From,
    /// Have the stream wait for this reader, so that it loses nothing: as long as its budget lasts
    /// (--lossless of ringd)
    #[arg(long)]
    pub(super) lossless: bool,
    /// Say at the end what was sent and lost (said anyway after a loss, a failure or a signal)
    #[arg(long)]
    pub(super) stats: bool,
    /// The account at the end as one JSON object on stdout, instead of words
    #[arg(long)]
    pub(super) json: bool,
    /// Say only what went wrong with ringsend itself
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// What ringstat calls this reader
    #[arg(long, default_value = "ringsend")]
    pub(super) label: String,
    /// Poll instead of sleeping: lowest latency, one whole processor
    #[arg(long)]
    pub(super) spin: bool,
    #[command(flatten)]
    pub(super) wait: WaitOption,
    /// End when nothing has come for so long, such as 500ms
    #[arg(long, value_name = "TIME")]
    pub(super) until_idle: Option<Time>,
    /// End after so long, such as 10s; status 1 if --count was not reached
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
  To a multicast group by one interface, four routers far:
    ringsend feed --to udp:239.1.2.3:26400@eth0,ttl=4
  Another machine's ring, no faster than 10 MB/s (there: ringd run --name copy --source \
  udp:0.0.0.0:5000):
    ringsend fpga0 --to udp:10.0.0.7:5000 --rate 10MB/s
  So that the receiver sees every seq, and what is missing:
    ringsend fpga0 --to udp:10.0.0.7:5000 --header seq

The header, little-endian: 'R' 'S', kind (1 byte), detail (1), generation (2), channel (2), seq (8).
Kind 1 is a datagram (detail 1: it was cut on its way into the ring). Kind 2: from seq on, as many \
as the 8-byte count behind the
header says will never come (detail 0 lapped, 1 too long, 2 failed). Kind 3: count datagrams were \
lost before the ring, ahead of
seq (detail 1 device, 2 kernel, 3 broker; 128 more: at least so many).

Exit status: 0 ended well, 1 could not attach or send, or --timeout came before --count; 2 wrong \
usage;
3 its place was taken back (ringctl detach).";

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
