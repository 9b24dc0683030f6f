//! One job, done in this process: what `ringbench job` runs.

use crate::capture;
use crate::contender::Publisher;
use crate::contenders::by_name;
use crate::holder::{self, HOLDER};
use crate::job::{Job, Report, pin};

/// Does a job in this process.
pub fn perform(job: &Job) -> anyhow::Result<Report> {
    if let Some(cpu) = job.cpu {
        pin(cpu)?;
    }
    if job.contender == HOLDER {
        return holder::hold(job);
    }
    if let Some(done) = capture::perform(job) {
        return done;
    }
    let contender = by_name(&job.contender)?;
    match (job.reader, contender.publisher) {
        (Some(_), _) => (contender.read)(job),
        (None, Publisher::Process(publish)) => publish(job),
        (None, Publisher::Ringd) => anyhow::bail!("ringd publishes for {}", contender.name),
    }
}
