//! What hostile processes of tests have in common: names that take over a terminal, and sockets
//! whose close takes long.

use rustix::net::sockopt;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Names that take over a terminal or begin a line of their own; C1, bidi, tags. Each has
/// [`SHOWN`] in it.
pub const NAMES: [&str; 4] = [
    "\x1b[2J\x1b]0;owned\x07",
    "owned\nringd: all is well",
    "\u{9b}31m\u{202e}owned",
    "\u{e0041}owned\u{200b}\r",
];
/// What may be shown of them.
pub const SHOWN: &str = "owned";

/// The first character of `text` that a terminal would obey, or not show.
pub fn hidden(text: &str) -> Option<char> {
    text.chars()
        .find(|c| *c != '\n' && (c.is_control() || "\u{202e}\u{200b}\u{e0041}".contains(*c)))
}

/// A TCP socket with unsent data and SO_LINGER: its last close takes 10 s, as long as the other end
/// is open and reads nothing. Returns both ends.
///
/// # Errors
/// If there is no loopback interface.
pub fn lingering() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut lingers = TcpStream::connect(listener.local_addr()?)?;
    let (other, _) = listener.accept()?;
    sockopt::set_socket_send_buffer_size(&lingers, 4096)?;
    sockopt::set_socket_linger(&lingers, Some(Duration::from_secs(10)))?;
    lingers.set_nonblocking(true)?;
    while lingers.write(&[0; 65536]).is_ok() {}
    Ok((lingers, other))
}

/// Makes its close quick again, for the process that made it.
///
/// # Errors
/// Never, for a socket.
pub fn linger_no_more(socket: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(socket, None)?)
}
