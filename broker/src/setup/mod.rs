//! The configuration of streams: the command line and the TOML file, and the ring sizes, access
//! rights and budgets that follow from them.
//!
//! Contract: nothing here opens or makes anything, apart from reading the file, /etc/passwd and
//! /etc/group.

pub mod access;
pub mod config;
pub mod config_file;
pub mod lossless_budget;
pub mod names;
pub mod plan;
