//! `fifo:` sources from outside: the model of an FPGA, a real `ringd`, and readers in separate
//! processes. Three accounts must close against each other to the datagram: the device's, the
//! broker's, and each reader's.

#[path = "fifo/faults.rs"]
mod faults;
#[path = "fifo/gone.rs"]
mod gone;
#[path = "fifo/killed.rs"]
mod killed;
#[path = "fifo/overflow.rs"]
mod overflow;
#[path = "fifo/polled.rs"]
mod polled;
#[path = "fifo/refused.rs"]
mod refused;
#[path = "fifo/seed.rs"]
mod seed;
#[path = "fifo/stage.rs"]
mod stage;
#[path = "fifo/strain.rs"]
mod strain;
