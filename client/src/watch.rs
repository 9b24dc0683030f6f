//! Looking at a stream's statistics without reading it, and without asking the broker more than once.

use crate::Error;
use crate::connect::Connection;
use ringweir_proto::control::{Reply, Request};
use ringweir_proto::os::OsError;
use ringweir_proto::os::page::StatsArea;
use ringweir_proto::stats::{Snapshot, StatsView};

/// A view of one stream's statistics; goes on while the broker is busy, stopped or dead.
#[derive(Debug)]
pub struct Watch {
    connection: Connection,
    area: StatsArea,
}

impl Watch {
    /// Asks the broker of `name` for its statistics area, once.
    ///
    /// # Errors
    /// As [`crate::Options::attach`].
    pub fn attach(name: &str) -> Result<Self, Error> {
        let connection = Connection::open(name)?;
        let (reply, fds) = connection.ask(&Request::Watch, 1)?;
        let Reply::Watching = reply else { return Err(connection.unexpected(&reply)) };
        let area = StatsArea::attach(&fds[0])?;
        StatsView::new(area.words())
            .map_err(|e| Error::Os(OsError { what: e.to_string(), errno: rustix::io::Errno::INVAL }))?;
        Ok(Self { connection, area })
    }

    /// The newest snapshot; `None` if none could be had whole. No system call.
    pub fn snapshot(&self) -> Option<Snapshot> {
        StatsView::new(self.area.words()).ok()?.read()
    }

    /// Whether the broker has hung up: it ended or died, and the figures will not change any more.
    pub fn hung_up(&self) -> bool {
        self.connection.hung_up()
    }
}
