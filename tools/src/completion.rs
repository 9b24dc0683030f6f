//! Stream names for the completions of the shell.
//!
//! Contract: only streams at whose sockets a process listens, and to which this user may connect.
//! No broker is waited for.

use crate::broker_query::pid_behind;
use ringweir_cli::completion::{ArgValueCompleter, name_or_path};

/// Completes the name of a running stream, or the path of a socket.
pub(crate) fn stream() -> ArgValueCompleter {
    name_or_path(|| {
        let mut found = ringweir::view::streams();
        found.retain(|(_name, socket)| pid_behind(socket).is_some());
        let mut names: Vec<_> = found.into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    })
}
