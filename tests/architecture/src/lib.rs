//! The dependency picture of ringweir, drawn from the code.
//!
//! Contract: [`picture::draw`] reads the workspace and returns the text of
//! `docs/architecture.md` together with every circle that it found. A circle is a set of two or
//! more nodes that depend on each other: between crates, between the top-level folders of a crate,
//! or between the files of a crate. Two things do not count as a dependency:
//!
//! - what is under `#[cfg(test)]`;
//! - a module that only declares its children or re-exports their names. A user of such a name
//!   depends on the file that defines it.
//!
//! ```text
//! tokens ─▶ source ─▶ modules ─▶ picture        workspace ─▶ picture ◀─ graph
//! ```

pub mod graph;
pub mod modules;
pub mod picture;
pub mod source;
pub mod tokens;
pub mod workspace;
