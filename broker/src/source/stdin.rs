//! `stdin:` — datagrams that another program writes to the broker's standard input.
//!
//! Contract: the given framing divides the bytes into datagrams; for bad ones see [`super::bytes`].
//! The end of the input ends the stream. The pipe provides back-pressure: while the pump is busy,
//! the writer waits, and nothing is lost.

use super::bytes::{ByteStream, Pace};
use super::contract::{OpenFor, Source, SourceError, SourceKind};
use super::framing::Framing;
use std::os::fd::AsFd;

pub const KIND: SourceKind = SourceKind {
    name: "stdin",
    usage: "stdin:len32le|len16be|fixed:N|lines|pcap|pcapng",
    about: "datagrams from standard input, cut by the given framing",
    open,
};

fn open(argument: &str, stream: &OpenFor) -> Result<Box<dyn Source>, SourceError> {
    if argument.is_empty() {
        return Err(SourceError::new("it takes a framing, which defines where a datagram ends"));
    }
    let framing: Framing = argument.parse().map_err(SourceError::new)?;
    let fd = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| SourceError(format!("standard input: {e}")))?;
    Ok(Box::new(ByteStream::new("stdin", fd, framing, Pace::Max, stream.max_datagram)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framing_is_asked_for_and_checked() {
        let refused =
            |argument| open(argument, &OpenFor { max_datagram: 64 }).err().unwrap().to_string();
        assert!(refused("").contains("takes a framing"));
        assert!(refused("json").contains("unknown framing \"json\"; there are len32le"));
        assert!(refused("fixed:100").contains("longer than the stream's maximum of 64"));
    }
}
