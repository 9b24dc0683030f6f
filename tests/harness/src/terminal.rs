//! A terminal for a program under test: what it shows is read, and the terminal can go away.
//!
//! Contract: it is not the controlling terminal of a process, so no signal comes from it; a program
//! has to notice by itself that it is gone.

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// The end of a terminal at which a person would sit.
#[derive(Debug)]
pub struct Terminal {
    person: File,
    program: OwnedFd,
}

impl Terminal {
    /// Opens one of 100 by 30 cells.
    ///
    /// # Panics
    /// If there is none.
    pub fn open() -> Self {
        let person = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("openpt");
        rustix::pty::grantpt(&person).expect("grantpt");
        rustix::pty::unlockpt(&person).expect("unlockpt");
        let path = rustix::pty::ptsname(&person, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let program = rustix::fs::open(path, flags, Mode::empty()).expect("its other end");
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&program, size).expect("its size");
        let fds = rustix::io::fcntl_setfd(&person, rustix::io::FdFlags::CLOEXEC);
        fds.expect("close on exec");
        Self { person: person.into(), program }
    }

    /// Makes it the terminal of a program that is started later.
    ///
    /// # Panics
    /// If there are no descriptors.
    pub fn give_to(&self, command: &mut Command) {
        let end = || Stdio::from(self.program.try_clone().expect("dup"));
        command.stdin(end()).stdout(end()).env("TERM", "xterm");
    }

    /// Lets it take nothing any more.
    ///
    /// # Panics
    /// If it cannot be stopped.
    pub fn stop(&self) {
        rustix::termios::tcflow(&self.program, rustix::termios::Action::OOff).expect("tcflow");
    }

    /// Reads what is shown until `text` is part of it.
    ///
    /// # Panics
    /// If the program ends before.
    pub fn read_until(&mut self, text: &str) {
        let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&shown).contains(text) {
            let got = self.person.read(&mut piece).expect("its output");
            shown.extend_from_slice(&piece[..got]);
        }
    }
}
