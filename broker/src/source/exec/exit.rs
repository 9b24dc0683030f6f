//! How a program ended, for people.

use rustix::io::Errno;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The end of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this status, as `waitpid` gives it.
    Ended(i32),
    /// The kernel does not say how.
    Unknown(Errno),
    /// It could not be started.
    NotStarted(Errno),
}

impl Exit {
    /// Whether it ended by itself, with status 0.
    pub(super) fn is_success(self) -> bool {
        self == Self::Ended(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(errno) => write!(f, "it ended, and its status is not known: {errno}"),
            Self::NotStarted(errno) => {
                write!(f, "it cannot be started: {errno}")?;
                f.write_str(match *errno {
                    Errno::ACCESS => "; is it an executable file (chmod +x)?",
                    Errno::NOEXEC => "; a script begins with #! and its interpreter",
                    _ => "",
                })
            }
            Self::Ended(status) => {
                let status = ExitStatus::from_raw(*status);
                match status.code() {
                    Some(code) => write!(f, "it exited with status {code}"),
                    None => write!(f, "it was killed by {status}"),
                }
            }
        }
    }
}
