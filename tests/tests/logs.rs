//! The number of a broker's messages on stderr is bounded, whatever happens.

use ringweir_harness::environment::{Environment, wait_for};
use ringweir_proto::os::socket;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(180);

/// A sender over the limit is a fault, thousands of times. Some are logged, with the number of
/// those that were not; together they are all faults. Control: the first few are all logged.
#[test]
fn a_flood_of_faults_is_rate_limited_and_accounted_for() {
    let env = Environment::new(LIMIT);
    let path = env.path("in.sock");
    let broker =
        env.broker("service-flood", &format!("unix:seqpacket,senders=1:{}", path.display()), &[]);
    let watch = ringweir::view::Viewer::attach(broker.path()).unwrap();
    let faults =
        || watch.snapshot().map_or(0, |s| s.pump(ringweir::view::stats::PumpCounter::SourceFaults));
    let _first = socket::connect(&path).unwrap();
    let shown = |text: &str| text.matches("senders are connected").count() as u64;
    let (began, mut sent) = (Instant::now(), 0);
    let sampled =
        || watch.snapshot().map_or(0, |s| s.get(ringweir::view::stats::StreamFact::SampledAt));
    // The last one finds the queue empty, and reports those that did not fit into it.
    for count in [5, 3000, 1] {
        (0..count).for_each(|_| drop(socket::connect(&path).unwrap()));
        sent += count;
        wait_for(LIMIT, || (faults() == sent).then_some(())).expect("each is counted");
        // Twice: the sampling thread empties the queue before the next time.
        for _ in 0..2 {
            let before = sampled();
            wait_for(LIMIT, || (sampled() != before).then_some(())).expect("it samples");
        }
        if sent == 5 {
            wait_for(LIMIT, || (shown(&broker.process.stderr()) == 5).then_some(()))
                .expect("the control");
        }
    }
    let mut broker = broker;
    broker.process.signal(rustix::process::Signal::TERM);
    assert!(broker.process.wait().success());
    let (text, seconds) = (broker.process.stderr(), began.elapsed().as_secs());
    let number = |line: &str, behind: &str| {
        line.split(behind)
            .next()
            .and_then(|l| l.rsplit([' ', '(']).next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let unshown: u64 = text
        .lines()
        .map(|line| match line {
            l if l.contains(" notices that were not shown") => {
                number(l, " notices that were not shown")
            }
            l if l.contains(" more notices were not shown") => {
                number(l, " more notices were not shown")
            }
            _ => 0,
        })
        .sum();
    assert_eq!(shown(&text) + unshown, 3006, "{text}");
    assert!(shown(&text) <= 50 + 5 * (seconds + 2), "{} lines in {seconds} s", shown(&text));
}
