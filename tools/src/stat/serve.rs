//! `ringstat --listen`: the exposition over HTTP, on TCP or a unix socket, for Prometheus and
//! `curl`.
//!
//! Contract: one request per connection, answered on a separate thread, with a limit on everything:
//! size of the request, time for the whole request, time for the answer, number of connections and
//! of threads. If there are too many connections, the oldest one is closed, so a silent or slow
//! client never keeps others out. Nor does a silent broker: its streams are served without
//! latencies. SIGINT, SIGTERM and SIGHUP end the program, which then removes the unix sockets it
//! made.

use super::fleet::Fleet;
use super::latency;
use super::model::Stream;
use super::prom::{self, Scraped};
use anyhow::Context;
use ringweir_cli::{signals, stderr};
use ringweir_proto::os::socket_file::SocketFile;
use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, SocketType};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest request, line and headers together.
const REQUEST_MOST: usize = 8 << 10;
/// Time for a request, and the same again for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at the same time, each with a thread. Others wait in the kernel's queue.
const CONNECTIONS_MOST: usize = 32;
/// How long a scrape waits for brokers to tell latencies. A healthy one takes less than a
/// millisecond.
const LATENCIES_WITHIN: Duration = Duration::from_millis(500);
/// How long a client is waited for in any case, although others wait for its place.
const GRACE: Duration = Duration::from_millis(100);
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
    for signal in super::ENDING.into_iter().filter(|signal| !signals::is_ignored(*signal)) {
        signal_hook::low_level::pipe::register(signal, tell.try_clone()?)?;
    }
    let listeners = addresses.iter().map(Listener::open).collect::<anyhow::Result<Vec<_>>>()?;
    for listener in &listeners {
        stderr::line(format_args!("serving {}", listener.url));
    }
    let scraper = Arc::new(Scraper::new(fleet));
    let connections = Connections::new()?;
    // A connection has to end before another is accepted.
    let mut full = false;
    loop {
        let heard = if full { &[] } else { &listeners[..] };
        let mut fds = vec![
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&connections.ended, PollFlags::IN),
        ];
        fds.extend(heard.iter().map(|l| PollFd::new(&l.fd, PollFlags::IN)));
        // While it is full, some client may become late.
        let limit = full.then(|| ringweir_proto::os::event::timespec(GRACE / 4));
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("cannot wait for connections"),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        let ready: Vec<bool> = fds[2..].iter().map(|f| !f.revents().is_empty()).collect();
        connections.forget_ended();
        full = false;
        for (listener, _) in heard.iter().zip(ready).filter(|(_, ready)| *ready) {
            if connections.count() >= CONNECTIONS_MOST {
                connections.dismiss_oldest();
                full = true;
                break;
            }
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

/// What the thread of a connection is doing.
#[derive(Clone, Copy)]
enum Phase {
    /// It reads the request, since then.
    Reads(Instant),
    /// It makes the answer, which takes no longer than [`LATENCIES_WITHIN`] and a moment.
    Answers,
    /// It sends the answer, since then.
    Sends(Instant),
}

/// One client.
struct Connection {
    fd: OwnedFd,
    phase: Mutex<Phase>,
}

impl Connection {
    /// Whether its client is waited for, and has been for [`GRACE`].
    fn is_late(&self) -> bool {
        match *lock(&self.phase) {
            Phase::Answers => false,
            // A thread that has not run yet will find its request.
            Phase::Reads(since) => {
                since.elapsed() >= GRACE
                    && wait_for(&self.fd, PollFlags::IN, Instant::now()).is_err()
            }
            Phase::Sends(since) => since.elapsed() >= GRACE,
        }
    }
}

/// Open connections: one for each thread.
struct Connections {
    there: Arc<Mutex<Vec<Arc<Connection>>>>,
    /// Counts connections that ended.
    ended: Arc<OwnedFd>,
}

/// Removes a connection when its thread ends, however it ends.
struct Ends {
    connection: Arc<Connection>,
    there: Arc<Mutex<Vec<Arc<Connection>>>>,
    ended: Arc<OwnedFd>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        lock(&self.there).retain(|c| !Arc::ptr_eq(c, &self.connection));
        // It fails only if it has counted 2^64 already.
        let _counted = rustix::io::write(&self.ended, &1u64.to_ne_bytes());
    }
}

impl Connections {
    fn new() -> anyhow::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let ended = rustix::event::eventfd(0, flags).context("eventfd")?;
        Ok(Self { there: Arc::default(), ended: Arc::new(ended) })
    }

    fn count(&self) -> usize {
        lock(&self.there).len()
    }

    fn forget_ended(&self) {
        // It fails if none has ended.
        let _none = rustix::io::read(&self.ended, &mut [0; 8]);
    }

    /// Serves `fd` on a separate thread.
    fn admit(&self, fd: OwnedFd, scraper: &Arc<Scraper>) {
        let connection =
            Arc::new(Connection { fd, phase: Mutex::new(Phase::Reads(Instant::now())) });
        lock(&self.there).push(connection.clone());
        let (there, ended) = (self.there.clone(), self.ended.clone());
        let (ends, scraper) = (Ends { connection, there, ended }, scraper.clone());
        // Without a thread the connection ends here.
        let _none =
            std::thread::Builder::new().name("scrape".into()).stack_size(STACK).spawn(move || {
                // It is no error if a client disconnects or is dismissed.
                let _gone = serve(&ends.connection, &scraper);
            });
    }

    /// Closes the oldest connection whose client is late: its thread finds the socket shut down and
    /// ends. Those that are being answered end by themselves.
    fn dismiss_oldest(&self) {
        let there = lock(&self.there);
        if let Some(oldest) = there.iter().find(|c| c.is_late()) {
            let _gone = rustix::net::shutdown(&oldest.fd, rustix::net::Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes expositions, one at a time: scrapes that come meanwhile get the same.
struct Scraper {
    sources: Mutex<Sources>,
    newest: Mutex<Newest>,
    made: Condvar,
}

struct Sources {
    fleet: Fleet,
    latencies: latency::Latencies,
}

#[derive(Default)]
struct Newest {
    is_made: bool,
    text: Arc<str>,
}

/// Ends the making of an exposition, however it ends.
struct Making<'a>(&'a Scraper);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        lock(&self.0.newest).is_made = false;
        self.0.made.notify_all();
    }
}

impl Scraper {
    fn new(fleet: Fleet) -> Self {
        let sources = Mutex::new(Sources { fleet, latencies: latency::Latencies::default() });
        Self { sources, newest: Mutex::default(), made: Condvar::new() }
    }

    fn exposition(&self) -> Arc<str> {
        let mut newest = lock(&self.newest);
        if newest.is_made {
            let done = self.made.wait_while(newest, |newest| newest.is_made);
            return done.unwrap_or_else(PoisonError::into_inner).text.clone();
        }
        newest.is_made = true;
        drop(newest);
        let _making = Making(self);
        let text: Arc<str> = lock(&self.sources).exposition().into();
        lock(&self.newest).text = text.clone();
        text
    }
}

impl Sources {
    fn exposition(&mut self) -> String {
        self.fleet.forget_gone();
        let streams = self.fleet.look();
        let measured = self.latencies.of(&self.fleet, &streams, LATENCIES_WITHIN);
        let scraped = streams.into_iter().zip(measured);
        let scraped: Vec<_> =
            scraped.map(|(stream, measured)| Scraped { stream, measured }).collect();
        prom::exposition(&scraped)
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

fn serve(connection: &Connection, scraper: &Scraper) -> std::io::Result<()> {
    let fd = &connection.fd;
    let answer = match request(fd)? {
        Ok(asked) => {
            *lock(&connection.phase) = Phase::Answers;
            asked.answer(scraper)
        }
        Err((status, words)) => {
            response(status, "text/plain; charset=utf-8", &format!("{words}\n"), true)
        }
    };
    *lock(&connection.phase) = Phase::Sends(Instant::now());
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
