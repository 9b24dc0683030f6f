//! An error in the command line that clap cannot find.
//!
//! Contract: `main` of a program turns this error into exit status 2.

/// What is wrong with the command line, and what to type instead.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
