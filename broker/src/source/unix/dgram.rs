//! One socket for all senders.

use super::prepare::{CONTROL_LEN, prepare, to_remove};
use super::spec::Spec;
use crate::intake::for_sources::{Arrival, Intake};
use crate::process::sandbox::needs::Needs;
use crate::source::batch::Batch;
use crate::source::contract::{Fill, OpenFor, Source, SourceError, WaitFor};
use crate::source::socket::Control;
use ringweir_proto::os::socket_file::SocketFile;
use rustix::net::SocketType;
use std::os::fd::AsFd;

/// One socket for all senders.
pub(super) struct Dgram {
    file: SocketFile,
    batch: Batch,
    description: String,
}

impl Dgram {
    pub(super) fn open(spec: &Spec<'_>, stream: &OpenFor) -> Result<Self, SourceError> {
        let file =
            SocketFile::bind(spec.path, SocketType::DGRAM, spec.mode).map_err(SourceError::new)?;
        let trusted = prepare(file.fd.as_fd())?.describe();
        let queue = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen");
        let description = format!(
            "dgram {} mode {:04o}, senders wait while {} datagrams are queued (sysctl \
            net.unix.max_dgram_qlen), kernel timestamps{trusted}",
            spec.path,
            spec.mode,
            queue.as_deref().map_or("some", str::trim),
        );
        Ok(Self { batch: Batch::new(stream.max_datagram, CONTROL_LEN), file, description })
    }
}

impl Source for Dgram {
    fn fill(&mut self, intake: &mut Intake) -> Result<Fill, SourceError> {
        while intake.has_room() {
            let accept = |_: &mut Intake, control: Control, _| {
                Some(Arrival { source_time: control.time_ns, ..Arrival::default() })
            };
            match self.batch.receive(self.file.fd.as_fd(), intake, accept) {
                Ok(count) if count.got == count.most => {}
                // Fewer than requested: the socket is empty, and another call would only confirm
                // it.
                Ok(_) => return Ok(Fill::Idle),
                Err(e) => return e.outcome("unix", intake),
            }
        }
        Ok(Fill::Took)
    }

    fn wait_for(&self) -> WaitFor<'_> {
        WaitFor { readable: Some(self.file.fd.as_fd()), until: None }
    }

    fn needs(&self) -> Needs {
        to_remove(&self.file)
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
