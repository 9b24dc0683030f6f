//! QEMU's monitor (QMP): devices are plugged and unplugged while the guest runs.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Our end of it.
#[derive(Debug)]
pub struct Monitor {
    read: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Monitor {
    /// Connects to a QEMU that was started with the other end. It answers once it runs.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self { read: BufReader::new(stream), events: VecDeque::new() };
        let _greeting = monitor.line()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.read.read_line(&mut line).context("no answer of QEMU's monitor")? == 0 {
            bail!("QEMU's monitor hung up");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Executes one command and returns its result.
    ///
    /// # Errors
    /// QEMU's reason for refusing it.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let words = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.read.get_mut().write_all(words.as_bytes())?;
        loop {
            let mut line = self.line()?;
            if line.get("event").is_some() {
                self.events.push_back(line);
            } else if line.get("error").is_some() {
                bail!("{command}: {}", line["error"]["desc"]);
            } else {
                return Ok(line["return"].take());
            }
        }
    }

    /// Waits until QEMU has removed the device, which needs the guest's agreement.
    fn deleted(&mut self, id: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let is_it = |e: &Value| e["event"] == "DEVICE_DELETED" && e["data"]["device"] == id;
        while Instant::now() < until {
            if let Some(at) = self.events.iter().position(is_it) {
                self.events.remove(at);
                return Ok(());
            }
            let event = self.line()?;
            self.events.push_back(event);
        }
        bail!("the guest does not let go of {id}")
    }

    /// Unplugs device `id`, and its character device `id-wire` if it has one.
    pub fn unplug(&mut self, id: &str) -> Result<()> {
        self.execute("device_del", json!({ "id": id }))?;
        self.deleted(id)?;
        let wires = self.execute("query-chardev", json!({}))?;
        let wire = format!("{id}-wire");
        if wires.as_array().is_some_and(|all| all.iter().any(|w| w["label"] == wire.as_str())) {
            self.execute("chardev-remove", json!({ "id": wire }))?;
        }
        Ok(())
    }

    /// Plugs a device in where [`super::Guest::device`] had one with that id.
    pub fn plug(&mut self, id: &str, driver: &str) -> Result<()> {
        self.execute(
            "device_add",
            json!({ "driver": driver, "id": id, "bus": format!("{id}-port") }),
        )?;
        Ok(())
    }
}
