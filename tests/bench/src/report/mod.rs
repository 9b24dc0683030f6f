//! Results for people, made of the records: `figures` from them, `targets`, `tables` and `charts`,
//! put together by `page`.

mod charts;
mod figures;
mod page;
mod tables;
mod targets;

pub use page::{markdown, write};
