//! The stream that is attacked, and who may read it.

use std::time::Duration;

pub const STREAM: &str = "soak-control";
pub const READERS_MAX: usize = 16;
/// A user who may attach.
pub const ALLOWED: u32 = 4711;
/// One who may attach, and reads no answer.
pub const UNREADING: u32 = 4712;
/// A group whose members may attach.
pub const GROUP: u32 = 4710;
/// How long something may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);
