//! A program that publishes by itself, for tests: `ringd-crash publish RUN_DIR NAME GEN READERS`.
//!
//! Contract: it publishes the datagrams of a `gen:` source (GEN is its argument) through
//! [`Publisher`], once READERS readers are attached: in turn by copy, in place, and several at
//! once. It writes to stderr what `ringd` writes at the start and at the end.

use ringweir_broker::source::Arrival;
use ringweir_broker::{PublishError, Publisher};
use ringweir_pattern::generate::{GenSpec, Generator};
use ringweir_proto::os::clock;
use std::process::ExitCode;
use std::time::Duration;

pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(2).collect();
    let [run_dir, name, spec, readers] = &words[..] else {
        panic!("usage: ringd-crash publish RUN_DIR NAME GEN READERS, not {words:?}")
    };
    let spec: GenSpec = spec.parse().expect("a generator");
    let readers: usize = readers.parse().expect("a number of readers");
    let mut publisher = Publisher::builder(name)
        .run_dir(run_dir)
        .depth(240)
        .capacity(64 << 10)
        .max_datagram(512)
        .lossless(None, None)
        .build()
        .expect("the stream starts");
    eprintln!("{}", publisher.summary());
    while publisher.readers() < readers {
        std::thread::sleep(Duration::from_millis(1));
    }
    run(&mut publisher, &spec).expect("it publishes");
    let published = publisher.next_seq();
    drop(publisher);
    eprintln!("{name} ended: {published} datagrams published");
    ExitCode::SUCCESS
}

fn run(publisher: &mut Publisher, spec: &GenSpec) -> Result<(), PublishError> {
    let (mut generator, mut limiter) = (Generator::new(spec), spec.limiter());
    let mut turn = 0_u64;
    while let Some(len) = generator.next_len() {
        while !limiter.due(clock::monotonic_ns()) {
            publisher.flush()?;
            let pause = limiter.ready_at().saturating_sub(clock::monotonic_ns());
            std::thread::sleep(Duration::from_nanos(pause));
        }
        let source_time = clock::realtime_ns();
        turn += 1;
        if turn.is_multiple_of(2) {
            let mut bytes = vec![0; len];
            let made = generator.fill_next(&mut bytes).expect("it has a next length");
            let arrival = Arrival { channel: made.channel, source_time, original_len: 0 };
            publisher.publish_as(&bytes, arrival)?;
        } else {
            let mut claim = publisher.claim(len)?;
            let made = generator.fill_next(claim.bytes()).expect("it has a next length");
            let arrival = Arrival { channel: made.channel, source_time, original_len: 0 };
            claim.commit_as(len, arrival)?;
            if turn.is_multiple_of(3) {
                publisher.flush()?;
            }
        }
        limiter.spend(len);
    }
    publisher.flush()
}
