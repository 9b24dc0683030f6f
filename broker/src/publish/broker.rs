//! Streams with sources of the program's own, each on a thread of its own.

use super::error::StartError;
use super::options::StreamOptions;
use super::service::Service;
use crate::process::signal_mask::AllBlocked;
use crate::source::contract::Source;
use crate::stream::builder::Host;
use crate::stream::running::{Started, Stream};

/// Serves streams whose datagrams the program's own [`Source`]s bring, as `ringd` serves those of
/// its own: each stream has a pump thread, which calls its source.
///
/// A pump thread gets the scheduling class of the thread that calls [`BrokerBuilder::start`]. Set
/// SCHED_FIFO before, for sources that cannot wait; the other threads go back to the ordinary
/// class.
///
/// Dropping the broker stops its streams: what their sources have taken is published, then readers
/// see the end. After `fork()` only the parent may use it.
#[derive(Debug)]
pub struct Broker {
    service: Service,
    summaries: Vec<String>,
}

/// Streams to be started.
#[derive(Default)]
pub struct BrokerBuilder {
    streams: Vec<(StreamOptions, Box<dyn Source>)>,
}

/// A source has failed. The log says which and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a source has failed; the log says why")]
pub struct SourceFailed;

impl Broker {
    /// No stream yet.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// What was granted: one line for each stream.
    pub fn summaries(&self) -> &[String] {
        &self.summaries
    }

    /// Whether all streams have ended.
    pub fn has_ended(&self) -> bool {
        self.service.has_ended()
    }

    /// Waits until all sources have ended.
    ///
    /// # Errors
    /// If one of them failed.
    pub fn wait(mut self) -> Result<(), SourceFailed> {
        match self.service.wait() {
            Ok(true) => Ok(()),
            Ok(false) => Err(SourceFailed),
            Err(e) => {
                tracing::error!("{e:#}");
                Err(SourceFailed)
            }
        }
    }

    /// Stops all streams and waits for them.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn stop(mut self) -> Result<(), SourceFailed> {
        self.service.stop();
        self.wait()
    }
}

impl BrokerBuilder {
    /// Adds a stream.
    pub fn stream(mut self, options: StreamOptions, source: impl Source + 'static) -> Self {
        self.streams.push((options, Box::new(source)));
        self
    }

    /// Starts all streams.
    ///
    /// # Errors
    /// If one of them cannot be started; none is left then.
    pub fn start(self) -> Result<Broker, StartError> {
        let _for_its_threads = AllBlocked::here();
        let (mut streams, mut summaries) = (Started::default(), Vec::new());
        let mut last = String::from("(none)");
        for (options, source) in self.streams {
            let mut host = Host::in_program(options.make_run_dir()?);
            let stream = Stream::builder(&options.config, &mut host)
                .start_with(source)
                .map_err(|e| StartError::new(&options.config.name, &e))?;
            tracing::info!("{}", stream.summary());
            summaries.push(stream.summary().to_owned());
            streams.push(stream);
            last = options.config.name;
        }
        let service = Service::start(streams).map_err(|e| StartError::new(&last, &e))?;
        Ok(Broker { service, summaries })
    }
}
