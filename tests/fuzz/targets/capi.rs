//! Calls the C library in any order with any arguments, except what its header forbids (dangling
//! pointers, strings without a NUL, two threads at once). It must not crash, return a code outside
//! the table or write past a struct; accounts must close; every handle, descriptor and byte must be
//! freed. The other side is a real broker in a thread of this process: it hands out rings that are
//! lapped, ends streams, dies, comes back with a new generation, and sometimes answers nonsense.
#![no_main]

#[path = "capi/broker.rs"]
mod broker;
#[path = "capi/calls.rs"]
mod calls;

use broker::{Answer, Broker, STREAM};
use calls::{Input, Session};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(Broker::start)
}

/// Number of open descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

fuzz_target!(|bytes: &[u8]| {
    let broker = broker();
    let before = descriptors();
    let mut input = Input::new(bytes);
    let mut session = Session::new(broker);
    for _ in 0..200 {
        let Some(op) = input.byte() else { break };
        match op % 32 {
            0..=3 => session.attach(&mut input),
            4..=8 => session.next(&mut input),
            9..=11 => session.read(&mut input),
            12 => session.release(&mut input),
            13..=14 => session.wait(&mut input),
            15 => session.poll(&mut input),
            16..=17 => session.properties(&mut input),
            18 => session.detach(&mut input),
            19..=21 => session.watch(&mut input),
            22..=23 => session.lists(&mut input),
            24..=25 => session.latencies(&mut input),
            26 => session.send_away(&mut input),
            27..=29 => broker.publish(input.byte().unwrap_or(1).into(), input.byte().unwrap_or(0)),
            30 => broker.answer_next(Answer::from(input.byte().unwrap_or(0))),
            _ => match input.byte().unwrap_or(0) % 3 {
                0 => broker.end(),
                1 => broker.hang_up(),
                _ => broker.restart(),
            },
        }
    }
    drop(session);
    broker.clean();
    assert_eq!(descriptors(), before, "descriptors were leaked, {STREAM}");
});
