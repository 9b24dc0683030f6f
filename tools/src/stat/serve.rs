//! `ringstat --listen`: the exposition over HTTP, on TCP or a unix socket, for Prometheus and
//! `curl`.
//!
//! Contract: one request per connection, answered on a separate thread, with a limit on everything:
//! size of the request, time for the whole request, time for the answer, number of connections. If
//! there are too many connections, the oldest one is closed, so a silent or slow client never keeps
//! others out. SIGINT, SIGTERM and SIGHUP end the program, which then removes the unix sockets it
//! made.

use super::fleet::Fleet;
use super::latency;
use super::model::Stream;
use super::prom::{self, Scraped};
use anyhow::Context;
use ringweir_cli::stderr;
use ringweir_proto::os::socket_file::SocketFile;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, SocketType};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest request, line and headers together.
const REQUEST_MOST: usize = 8 << 10;
/// Time for a request, and the same again for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at the same time.
const CONNECTIONS_MOST: usize = 32;
/// Stack of a connection's thread.
const STACK: usize = 256 << 10;

const ACCEPTED: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A socket file, only for this user.
    Unix(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path, such as unix:/run/ringstat.sock".into()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        // A port without an address means this machine only.
        let port: Option<u16> = text.strip_prefix(':').unwrap_or(text).parse().ok();
        match port {
            Some(port) => Ok(Self::Tcp(([127, 0, 0, 1], port).into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "must be ADDRESS:PORT, such as 127.0.0.1:9469 or [::]:9469, or unix:PATH".into()
            }),
        }
    }
}

/// A listening socket; its file is removed with it.
struct Listener {
    fd: Bound,
    /// How to query it, for people.
    url: String,
}

enum Bound {
    Tcp(TcpListener),
    Unix(SocketFile),
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(file) => file.fd.as_fd(),
        }
    }
}

impl Listener {
    fn open(address: &Address) -> anyhow::Result<Self> {
        match address {
            Address::Tcp(at) => {
                let socket = TcpListener::bind(at)
                    .with_context(|| format!("cannot listen on {at}{}", remedy(*at)))?;
                socket.set_nonblocking(true)?;
                let url = format!("http://{}/metrics", socket.local_addr()?);
                Ok(Self { fd: Bound::Tcp(socket), url })
            }
            Address::Unix(path) => {
                let file = SocketFile::bind(path, SocketType::STREAM, 0o600)
                    .with_context(|| format!("cannot listen on {path}"))?;
                rustix::net::listen(&file.fd, 128)
                    .with_context(|| format!("cannot listen on {path}"))?;
                let url = format!("curl --unix-socket {path} http://localhost/metrics");
                Ok(Self { fd: Bound::Unix(file), url })
            }
        }
    }
}

fn remedy(at: SocketAddr) -> &'static str {
    if at.port() == 0 {
        ""
    } else {
        " (is another exporter running? --listen 127.0.0.1:0 uses any free port)"
    }
}

/// Serves until a signal comes.
pub fn run(fleet: Fleet, addresses: &[Address]) -> anyhow::Result<()> {
    let (signals, tell) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, tell.try_clone()?)?;
    }
    let listeners = addresses.iter().map(Listener::open).collect::<anyhow::Result<Vec<_>>>()?;
    for listener in &listeners {
        stderr::line(format_args!("serving {}", listener.url));
    }
    let scraper = Arc::new(Scraper { fleet: Mutex::new(fleet) });
    let connections = Connections::default();
    loop {
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN)];
        fds.extend(listeners.iter().map(|l| PollFd::new(&l.fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("cannot wait for connections"),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        let ready: Vec<bool> = fds[1..].iter().map(|f| !f.revents().is_empty()).collect();
        for (listener, _) in listeners.iter().zip(ready).filter(|(_, ready)| *ready) {
            match rustix::net::accept_with(&listener.fd, ACCEPTED) {
                Ok(fd) => connections.admit(fd, &scraper),
                Err(
                    rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM,
                ) => {
                    connections.dismiss_oldest();
                    // The connection stays in the queue: without this pause the loop would spin.
                    std::thread::sleep(Duration::from_millis(50));
                }
                // The peer has disconnected again.
                Err(_) => {}
            }
        }
    }
}

/// Open connections.
#[derive(Default)]
struct Connections {
    there: Arc<Mutex<Vec<Arc<OwnedFd>>>>,
}

impl Connections {
    /// Serves `fd` on a separate thread; closes the oldest connection if there are too many.
    fn admit(&self, fd: OwnedFd, scraper: &Arc<Scraper>) {
        if lock(&self.there).len() >= CONNECTIONS_MOST {
            self.dismiss_oldest();
        }
        let connection = Arc::new(fd);
        lock(&self.there).push(connection.clone());
        let (there, scraper, served) = (self.there.clone(), scraper.clone(), connection.clone());
        let thread =
            std::thread::Builder::new().name("scrape".into()).stack_size(STACK).spawn(move || {
                // It is no error if a client disconnects or is dismissed.
                let _gone = serve(&served, &scraper);
                lock(&there).retain(|g| !Arc::ptr_eq(g, &served));
            });
        if thread.is_err() {
            lock(&self.there).retain(|g| !Arc::ptr_eq(g, &connection));
        }
    }

    /// Closes the oldest connection: its thread finds the socket shut down.
    fn dismiss_oldest(&self) {
        let mut there = lock(&self.there);
        if !there.is_empty() {
            let _gone = rustix::net::shutdown(there.remove(0).as_fd(), rustix::net::Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes expositions.
struct Scraper {
    fleet: Mutex<Fleet>,
}

impl Scraper {
    fn exposition(&self) -> String {
        // Queried outside of the lock, so that a silent broker keeps no other client waiting.
        let (streams, asked) = {
            let mut fleet = lock(&self.fleet);
            fleet.forget_gone();
            let streams = fleet.look();
            let asked = latency::Asked::of(&fleet, &streams);
            (streams, asked)
        };
        prom::exposition(&scraped(streams, asked))
    }
}

/// Streams with their latencies, where they are known.
pub fn scraped(streams: Vec<Stream>, asked: latency::Asked) -> Vec<Scraped> {
    let known = |found: anyhow::Result<_>| found.unwrap_or_default();
    streams
        .into_iter()
        .zip(asked.wait())
        .map(|(stream, found)| Scraped { stream, measured: known(found) })
        .collect()
}

fn wait_for(fd: &OwnedFd, what: PollFlags, until: Instant) -> std::io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    let limit = ringweir_proto::os::event::timespec(left);
    match poll(&mut [PollFd::new(fd, what)], Some(&limit)) {
        Ok(0) => Err(ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn serve(fd: &OwnedFd, scraper: &Scraper) -> std::io::Result<()> {
    let answer = match request(fd)? {
        Ok(asked) => asked.answer(scraper),
        Err((status, words)) => {
            response(status, "text/plain; charset=utf-8", &format!("{words}\n"), true)
        }
    };
    send(fd, answer.as_bytes())?;
    // The rest of the request must be read, or closing the socket would destroy the answer.
    rustix::net::shutdown(fd, rustix::net::Shutdown::Write)?;
    let until = Instant::now() + Duration::from_millis(200);
    let mut rest = [0; 1024];
    for _ in 0..64 {
        wait_for(fd, PollFlags::IN, until)?;
        if rustix::io::read(fd, &mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

struct Asked {
    head_only: bool,
    path: String,
}

type Refusal = (&'static str, &'static str);

/// Reads until the blank line.
fn request(fd: &OwnedFd) -> std::io::Result<Result<Asked, Refusal>> {
    let until = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    let ended = |text: &[u8]| {
        text.windows(4).any(|w| w == b"\r\n\r\n") || text.windows(2).any(|w| w == b"\n\n")
    };
    while !ended(&text) {
        if text.len() >= REQUEST_MOST {
            return Ok(Err(("431 Request Header Fields Too Large", "the request is too long")));
        }
        if let Err(e) = wait_for(fd, PollFlags::IN, until) {
            return match e.kind() {
                ErrorKind::TimedOut => Ok(Err(("408 Request Timeout", "no request came"))),
                _ => Err(e),
            };
        }
        match rustix::io::read(fd, &mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => text.extend(&piece[..n]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(parse(&text))
}

fn parse(text: &[u8]) -> Result<Asked, Refusal> {
    let bad = ("400 Bad Request", "not an HTTP request; try: curl http://ADDRESS:PORT/metrics");
    let line =
        text.split(|b| *b == b'\n').next().and_then(|l| std::str::from_utf8(l).ok()).ok_or(bad)?;
    let words: Vec<&str> = line.trim_end_matches('\r').split(' ').collect();
    let &[method, target, "HTTP/1.0" | "HTTP/1.1"] = words.as_slice() else { return Err(bad) };
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(("405 Method Not Allowed", "only GET and HEAD are supported")),
    };
    // A proxy's form names the host as well.
    let path =
        target.strip_prefix("http://").map_or(target, |t| t.find('/').map_or("/", |at| &t[at..]));
    Ok(Asked { head_only, path: path.split('?').next().unwrap_or("/").into() })
}

impl Asked {
    fn answer(&self, scraper: &Scraper) -> String {
        let page = "ringstat: the figures are at /metrics\n";
        match self.path.as_str() {
            "/metrics" => {
                response("200 OK", prom::CONTENT_TYPE, &scraper.exposition(), !self.head_only)
            }
            "/" => response("200 OK", "text/plain; charset=utf-8", page, !self.head_only),
            _ => response("404 Not Found", "text/plain; charset=utf-8", page, !self.head_only),
        }
    }
}

fn response(status: &str, kind: &str, body: &str, with_body: bool) -> String {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: \
        {length}\r\n{allow}Connection: close\r\n\r\n"
    );
    if with_body { head + body } else { head }
}

fn send(fd: &OwnedFd, mut bytes: &[u8]) -> std::io::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        match rustix::net::send(fd, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::AGAIN) => wait_for(fd, PollFlags::OUT, until)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tcp_or_unix() {
        assert_eq!("127.0.0.1:9469".parse(), Ok(Address::Tcp(([127, 0, 0, 1], 9469).into())));
        assert_eq!(":0".parse(), Ok(Address::Tcp(([127, 0, 0, 1], 0).into())));
        assert_eq!("9469".parse(), "127.0.0.1:9469".parse::<Address>());
        assert!(matches!("[::1]:80".parse(), Ok(Address::Tcp(a)) if a.is_ipv6()));
        assert_eq!("unix:/tmp/x".parse(), Ok(Address::Unix("/tmp/x".into())));
        for bad in ["", "unix:", "localhost", "demo", "1.2.3.4", "127.0.0.1:99999", "/tmp/x"] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(error.contains("unix:"), "{bad}: {error}");
        }
    }

    #[test]
    fn requests_are_parsed_or_refused() {
        let path =
            |text: &str| parse(text.as_bytes()).map(|a| a.path).map_err(|(status, _)| &status[..3]);
        assert_eq!(path("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), Ok("/metrics".into()));
        assert_eq!(path("HEAD /metrics?x=1 HTTP/1.0\n\n"), Ok("/metrics".into()));
        assert_eq!(path("GET http://host:1/metrics HTTP/1.1\r\n\r\n"), Ok("/metrics".into()));
        for (bad, status) in [
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET  /metrics HTTP/1.1\r\n\r\n", "400"),
            ("\x16\x03\x01\n\n", "400"),
            ("GET / HTTP/2\r\n\r\n", "400"),
        ] {
            assert_eq!(path(bad), Err(status), "{bad:?}");
        }
        assert!(parse(b"\xff\xfe\n\n").is_err());
    }

    #[test]
    fn a_dead_exporters_socket_is_taken_over_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("ringstat-serve-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("s");
        let open = || Listener::open(&Address::Unix(path.to_str().unwrap().into()));
        let refused = || format!("{:#}", open().err().unwrap());
        let first = open().unwrap();
        assert!(refused().contains("in use by another process"), "{}", refused());
        drop(first);
        assert!(!path.exists(), "removed");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(open().expect("the control: no process listens on it"));
        std::fs::write(&path, "x").unwrap();
        assert!(refused().contains("not a socket"), "{}", refused());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
