//! The FPGA model: its account against that of a consumer that counts for itself, well-behaved and
//! not.

#[path = "fpga/consumer.rs"]
mod consumer;
#[path = "fpga/wakes.rs"]
mod wakes;

use consumer::{Account, Consumer};
use ringweir_device::{DO_RESET, DO_RUN, DeviceMemory, Drain, Garbage, IS_RESETTING, IS_RUNNING};
use ringweir_device_model::account::ChannelAccount;
use ringweir_device_model::model::{Fate, Spoil};
use ringweir_device_model::spec::DeviceTime;
use ringweir_device_model::{DeviceAccount, DeviceModel, Spec};
use ringweir_harness::environment::{Environment, Process, wait_for};
use ringweir_pattern::generate::Lengths;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn spec() -> Spec {
    Spec {
        device_id: 7,
        rate: None,
        sizes: "24..200".parse().unwrap(),
        burst: 1,
        fifo_bytes: 1024,
        channels: 1,
        seed: 5,
        time: DeviceTime::None,
        interrupts: true,
        autostart: true,
    }
}

/// A model in heap memory, a drain of its first channel, and that drain's account.
fn model(spec: Spec) -> (DeviceModel, Drain, Account) {
    let window = DeviceMemory::on_heap(&spec.shape().unwrap()).unwrap();
    let drain = Drain::new(window.shape(), window.fifo(0));
    (DeviceModel::new(window, spec), drain, Account::default())
}

/// At any rhythm of the two sides nothing is unaccounted for. The hashes are equal with losses as
/// well, because they cover what was stored.
#[test]
fn produced_equals_delivered_plus_lost_at_any_rhythm() {
    for every in [1, 3, 7, 40, 1000] {
        let (mut model, mut drain, mut account) =
            model(Spec { time: DeviceTime::Counter, ..spec() });
        for n in 1..=5000 {
            model.produce(n);
            if n % every == 0 {
                account.drain(model.window(), 0, &mut drain);
                assert_eq!(model.window().registers().status.ready.load(Ordering::Relaxed), 1);
                model.look(n);
                assert_eq!(model.window().registers().status.ready.load(Ordering::Relaxed), 0);
            }
        }
        account.drain(model.window(), 0, &mut drain);
        assert!(model.is_drained());
        let device_account = model.device_account().remove(0);
        assert_eq!(
            (device_account.produced, device_account.drained, device_account.left),
            (5000, device_account.stored, 0)
        );
        account.check(&device_account).unwrap();
        assert_eq!(device_account.lost > 0, every >= 7, "every {every}: {device_account:?}");
        assert!(account.verifier.missing <= account.lost);
        // The controls: one datagram, one loss or one byte too many or too few is found.
        let wrong: [fn(&mut Account); 4] = [
            |a| a.delivered -= 1,
            |a| a.lost += 1,
            |a| (a.lost, a.delivered) = (a.lost + 1, a.delivered - 1),
            |a| a.digest.add(b"x"),
        ];
        for spoil in wrong {
            let mut account = account.clone();
            spoil(&mut account);
            assert!(account.check(&device_account).is_err());
        }
    }
}

/// Stores `n` datagrams; none may be lost.
fn store(model: &mut DeviceModel, n: u64) {
    for _ in 0..n {
        assert_eq!(model.produce(0), Fate::Stored);
    }
}

/// Every fault is refused with its own name, and the number of discarded datagrams is exact.
/// Control: without a fault, nothing is refused or discarded.
#[test]
fn each_fault_is_named_and_its_cost_is_exact() {
    type Act = fn(&mut DeviceModel);
    type Named = fn(&[Garbage]) -> bool;
    // The fault, the unreadable entries that it stores, and how many are discarded of three stored
    // before it and two after it.
    let cases: [(Act, u64, u32, Named); 5] = [
        (|_| (), 0, 0, |g| g.is_empty()),
        (|b| b.spoil_next(Spoil::Mark), 1, 3, |g| matches!(g, [Garbage::Mark { .. }])),
        (
            |b| b.spoil_next(Spoil::Length),
            1,
            3,
            |g| matches!(g, [Garbage::Length { len: 1025, .. }]),
        ),
        (
            |b| assert_eq!(b.upset(false), 3),
            0,
            // After the jump there is no room: the two are lost, the three are discarded.
            3,
            |g| {
                matches!(
                    g,
                    [Garbage::Producer { producer, consumer: 0, .. }] if producer.is_multiple_of(8)
                )
            },
        ),
        (
            |b| assert_eq!(b.upset(true), 3),
            0,
            3,
            |g| matches!(g, [Garbage::Producer { producer, .. }] if producer % 8 == 4),
        ),
    ];
    for (index, (act, spoils, discarded, named)) in cases.into_iter().enumerate() {
        let (mut model, mut drain, mut account) =
            model(Spec { sizes: "100".parse().unwrap(), ..spec() });
        store(&mut model, 3);
        act(&mut model);
        let fates: Vec<Fate> = (0..3).map(|_| model.produce(0)).collect();
        let spoiled = fates.iter().filter(|fate| matches!(fate, Fate::Spoiled(_))).count() as u64;
        assert_eq!(spoiled, spoils, "case {index}: {fates:?}");
        account.drain(model.window(), 0, &mut drain);
        assert!(named(&account.garbage), "case {index}: {:?}", account.garbage);
        assert_eq!(account.discarded, 0, "not known before the next good entry");
        // The device sees where the consumer has gone. If that is off the words, it continues from
        // there with another jump.
        model.look(0);
        if model.has_jumped() {
            account.drain(model.window(), 0, &mut drain);
            model.look(0);
        }
        let garbage = account.garbage.len();
        store(&mut model, 4);
        account.drain(model.window(), 0, &mut drain);
        assert_eq!(
            (account.discarded, account.garbage.len()),
            (discarded.into(), garbage),
            "case {index}"
        );
        assert_eq!(garbage, [0, 1, 1, 1, 2][index], "case {index}: {:?}", account.garbage);
        assert_eq!((account.renumbered, account.verifier.bad), (0, 0), "case {index}");
        let device_account = model.device_account().remove(0);
        account.check(&device_account).unwrap_or_else(|e| panic!("case {index}: {e}"));
        assert_eq!((device_account.spoiled, device_account.left), (spoils, 0), "case {index}");
    }
}

/// Skipped numbers belong to no datagram: the consumer reports that the numbers contradict each
/// other, and everything that was stored is delivered.
#[test]
fn skipped_numbers_are_not_losses() {
    let (mut model, mut drain, mut account) =
        model(Spec { sizes: "100".parse().unwrap(), ..spec() });
    store(&mut model, 2);
    model.skip(5);
    store(&mut model, 2);
    account.drain(model.window(), 0, &mut drain);
    assert_eq!(
        (account.delivered, account.renumbered, account.lost + account.discarded),
        (4, 1, 0)
    );
    assert_eq!((account.verifier.missing, account.verifier.last), (5, Some(8)));
    account.check(&model.device_account()[0]).unwrap();
}

/// Any mixture of datagrams, faults and drains, at any rhythm: the accounts of the two sides close,
/// and nothing that comes out is wrong.
#[test]
fn any_mixture_of_faults_is_accounted_for() {
    let (mut garbage, mut lost) = (0, 0);
    for seed in 0..200 {
        let (mut model, mut drain, mut account) = model(Spec { seed, ..spec() });
        let mut dice = Lengths::new("24..1023".parse().unwrap(), seed);
        for _ in 0..500 {
            match dice.draw() % 64 {
                0 => model.spoil_next(Spoil::Mark),
                1 => model.spoil_next(Spoil::Length),
                2 => assert!(model.upset(false) <= 25),
                3 => assert!(model.upset(true) <= 25),
                4..12 => account.drain(model.window(), 0, &mut drain),
                12..20 => model.look(0),
                _ => {
                    model.produce(0);
                }
            }
        }
        settle(&mut model, &mut drain, &mut account);
        let device_account = model.device_account().remove(0);
        account.check(&device_account).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(
            (account.renumbered, account.verifier.bad, device_account.left),
            (0, 0, 0),
            "seed {seed}"
        );
        (garbage, lost) = (garbage + account.garbage.len(), lost + device_account.lost);
    }
    assert!(
        garbage > 1000 && lost > 1000,
        "{garbage} faults and {lost} losses are too few to show anything"
    );
}

/// Ends any fault with a good datagram.
fn settle(model: &mut DeviceModel, drain: &mut Drain, account: &mut Account) {
    loop {
        account.drain(model.window(), 0, drain);
        model.look(0);
        account.drain(model.window(), 0, drain);
        if model.produce(0) == Fate::Stored {
            break;
        }
    }
    account.drain(model.window(), 0, drain);
}

/// A consumer that writes anything into its registers loses datagrams, but causes no other harm.
#[test]
fn a_broken_consumer_harms_only_itself() {
    let (mut model, _, _) = model(Spec { channels: 3, ..spec() });
    let mut dice = Lengths::new("24..4000000000".parse().unwrap(), 1);
    for _ in 0..50_000 {
        let registers = model.window().registers();
        let (channel, control) = (&registers.channel[dice.draw() as usize % 3], &registers.control);
        let all =
            [&channel.consumer, &channel.next_sequence, &channel.lost_reported, &control.control];
        let more = [
            &control.interrupt_mask,
            &control.interrupt_clear,
            &control.doorbell,
            &channel.producer,
        ];
        let value = match dice.draw() % 4 {
            0 => dice.draw() & 3,
            1 => channel.producer.load(Ordering::Relaxed).wrapping_sub(dice.draw() % 1024),
            _ => dice.draw() ^ dice.draw() << 9,
        };
        all.iter()
            .chain(&more)
            .nth(dice.draw() as usize % 8)
            .unwrap()
            .store(value, Ordering::Relaxed);
        model.look(0);
        model.produce(0);
        model.raises();
    }
    let device_account =
        DeviceAccount { channels: model.device_account(), ..DeviceAccount::default() };
    let sum = |of: fn(&ChannelAccount) -> u64| device_account.channels.iter().map(of).sum::<u64>();
    let (produced, stored, lost, left) =
        (sum(|c| c.produced), sum(|c| c.stored), sum(|c| c.lost), sum(|c| c.left));
    DeviceAccount { produced, stored, lost, left, ..device_account.clone() }.check().unwrap();
    assert!(produced == 50_000 && stored > 1000 && lost > 1000, "{device_account:?}");
}

/// A reset empties everything. What was in the FIFO is in the account, and numbers start again.
#[test]
fn a_reset_starts_again_and_keeps_the_account() {
    let (mut model, _, _) =
        model(Spec { autostart: false, sizes: "100".parse().unwrap(), ..spec() });
    let status =
        |model: &DeviceModel| model.window().registers().status.status.load(Ordering::Relaxed);
    let command = |model: &mut DeviceModel, control: u32| {
        model.window().registers().control.control.store(control, Ordering::Relaxed);
        model.look(0);
    };
    model.look(0);
    assert_eq!((status(&model), model.is_running()), (0, false));
    command(&mut model, DO_RUN);
    assert_eq!(status(&model), IS_RUNNING);
    store(&mut model, 3);
    command(&mut model, DO_RESET | DO_RUN);
    assert_eq!((status(&model), model.is_running()), (IS_RESETTING, false));
    command(&mut model, DO_RUN);
    assert_eq!((status(&model), model.resets()), (IS_RUNNING, 1));
    let (mut drain, mut account) =
        (Drain::new(model.window().shape(), model.window().fifo(0)), Account::default());
    store(&mut model, 2);
    account.drain(model.window(), 0, &mut drain);
    assert_eq!((account.delivered, account.verifier.first), (2, Some(0)));
    let device_account = model.device_account().remove(0);
    assert_eq!(
        (
            device_account.produced,
            device_account.stored,
            device_account.reset,
            device_account.drained
        ),
        (5, 5, 3, 2)
    );
    command(&mut model, 0);
    assert_eq!(status(&model), 0);
}

/// A running `ringfpga`.
struct Device {
    process: Process,
    at: PathBuf,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Device {
    fn start(env: &Environment, place: &str, more: &str) -> Self {
        let at = env.path("fpga");
        let mut command = env.command("ringfpga");
        command
            .arg(place)
            .arg(&at)
            .args(["--drain-limit", "60s"])
            .args(more.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = env.start(command);
        let (stdin, stdout) = (process.stdin().unwrap(), BufReader::new(process.stdout().unwrap()));
        let device = Self { process, at, stdin, stdout };
        device.wait_until_there(1);
        device
    }

    /// Waits until it has announced itself this many times.
    fn wait_until_there(&self, times: usize) {
        let there = || {
            (self.process.stderr().matches("there is a device at").count() == times).then_some(())
        };
        assert!(wait_for(LIMIT, there).is_some(), "no device: {}", self.process.stderr());
    }

    fn connect(&self) -> Consumer {
        Consumer::connect(&self.at).unwrap()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn device_account(&mut self) -> DeviceAccount {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let device_account: DeviceAccount = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("{e}: {line:?} {}", self.process.stderr()));
        device_account.check().unwrap();
        device_account
    }

    fn end(mut self) -> DeviceAccount {
        let device_account = self.device_account();
        let status = self.process.wait();
        assert!(status.success(), "{status}: {}", self.process.stderr());
        device_account
    }

    fn stop(self) -> DeviceAccount {
        self.process.signal(Signal::TERM);
        self.end()
    }
}

/// Over a socket with interrupts: a consumer that keeps up gets everything, and a slow one learns
/// what it missed. In both cases it has what was stored, in order.
#[test]
fn fast_and_slow_consumers_account_for_everything() {
    let env = Environment::new(LIMIT);
    for (more, dawdle, loses) in [
        ("--rate 2000/s --size 24..300 --fifo 1MiB --for 2s --device-time date", 0, Some(false)),
        ("--rate 2000/s --size 24..300 --fifo 1KiB --burst 3 --for 2s", 30, Some(true)),
        ("--rate 1Mbit/s --size 128 --fifo 2KiB --channels 3 --for 2s --device-time", 5, None),
        ("--rate max --size 24..300 --fifo 4KiB --count 300000", 0, None),
    ] {
        let device = Device::start(&env, "--socket", more);
        let mut consumer = device.connect();
        consumer.drain_to_the_end(Duration::from_millis(dawdle));
        let device_account = device.end();
        for (account, channel) in consumer.accounts.iter().zip(&device_account.channels) {
            account.check(channel).unwrap_or_else(|e| panic!("{more}: {e}"));
            assert!(account.garbage.is_empty() && account.verifier.bad == 0, "{more}");
            assert_eq!(account.time.is_some(), more.contains("--device-time"));
        }
        if let Some(loses) = loses {
            assert_eq!(device_account.lost > 0, loses, "{more}: {device_account:?}");
        }
        assert_eq!(
            (device_account.left, device_account.resets, device_account.consumers),
            (0, 1, 1),
            "{more}"
        );
        // Interrupts coalesce: the consumer sees no more than were raised, and no more were raised
        // than datagrams were stored.
        assert!(
            consumer.interrupts <= device_account.interrupts
                && device_account.interrupts <= device_account.stored,
            "{more}: {device_account:?}"
        );
        assert!(consumer.interrupts > 0 || loses.is_none(), "{more}");
    }
}

/// Faults over a socket, while the device runs; the consumer continues, and the sums still close.
#[test]
fn a_consumer_survives_all_faults_and_its_account_closes() {
    let env = Environment::new(LIMIT);
    let more = "--rate 2000/s --size 24..300 --fifo 4KiB --misbehave bad-mark@50ms";
    let mut device = Device::start(&env, "--socket", more);
    let mut consumer = device.connect();
    let until = |consumer: &mut Consumer, garbage: usize| {
        let mut enough = u64::MAX;
        let seen = wait_for(LIMIT, || {
            consumer.drain();
            let account = &consumer.accounts[0];
            // Some more datagrams after it, which show what it has cost.
            if account.garbage.len() >= garbage {
                enough = enough.min(account.delivered + 20);
            }
            (account.delivered >= enough).then_some(())
        });
        assert!(
            seen.is_some() && consumer.accounts[0].garbage.len() == garbage,
            "{:?}",
            consumer.accounts[0].garbage
        );
    };
    until(&mut consumer, 1);
    device.say("no such thing");
    for (word, garbage) in [
        ("producer-out-of-range", 2),
        ("producer-unaligned", 4),
        ("length-over", 5),
        ("bad-mark", 6),
    ] {
        device.say(word);
        until(&mut consumer, garbage);
    }
    consumer.command(0, 0);
    consumer.drain();
    let said = device.process.stderr();
    let device_account = device.stop();
    assert!(
        said.contains("\"no such thing\" is none of: account, producer-out-of-range"),
        "{said}"
    );
    let account = &consumer.accounts[0];
    account.check(&device_account.channels[0]).unwrap();
    assert!(account.discarded >= 3, "{device_account:?}");
    let kinds = account.garbage.iter().map(|garbage| match garbage {
        Garbage::Producer { .. } => 'p',
        Garbage::Mark { .. } => 'm',
        Garbage::Length { .. } => 'l',
    });
    assert_eq!(kinds.collect::<String>(), "mppplm");
    let of = |name: &str| (device_account.faults[name].times, device_account.faults[name].spoiled);
    assert_eq!(
        (of("bad-mark"), of("length-over"), of("producer-unaligned")),
        ((2, 2), (1, 1), (1, 0))
    );
}

/// A storm interrupts a consumer that has forbidden interrupts; withheld interrupts let a waiting
/// consumer sleep. Controls: without a storm the same consumer gets none, and without withholding
/// it is woken.
#[test]
fn storms_ignore_the_mask_and_withheld_interrupts_do_not_wake() {
    let env = Environment::new(LIMIT);
    let mut device = Device::start(&env, "--socket", "--rate 100/s --size 24 --fifo 1MiB");
    let mut consumer = device.connect();
    consumer.drain();
    while consumer.is_interrupted() {}
    let unasked = |consumer: &Consumer, time: u64| {
        wait_for(Duration::from_millis(time), || consumer.is_interrupted().then_some(())).is_some()
    };
    assert!(!unasked(&consumer, 200), "interrupted, although the mask forbids it");
    device.say("interrupt-storm=300ms");
    assert!(unasked(&consumer, 10_000));
    std::thread::sleep(Duration::from_millis(500));
    let _last_of_it = consumer.is_interrupted();
    assert!(!unasked(&consumer, 200), "the storm has not ended");

    let wakes = |consumer: &mut Consumer, limit: u64| {
        consumer.drain();
        consumer.wait(Duration::from_millis(limit))
    };
    assert!((0..20).all(|_| wakes(&mut consumer, 10_000)));
    device.say("lost-interrupt=1500ms");
    let slept = wait_for(LIMIT, || (!wakes(&mut consumer, 300)).then_some(()));
    assert!(slept.is_some(), "every interrupt came");
    assert!(wakes(&mut consumer, 10_000) && (0..20).all(|_| wakes(&mut consumer, 10_000)));
    device.say("account");
    let device_account = device.device_account();
    assert!(
        device_account.interrupts_stormed > 10 && device_account.interrupts_withheld > 0,
        "{device_account:?}"
    );
    drop(consumer);
    assert_eq!(device.stop().lost, 0);
}

/// There is one consumer at a time. When it hangs up the device continues and overflows, and the
/// next consumer continues where the last one stopped.
#[test]
fn the_next_consumer_continues_where_the_last_one_stopped() {
    let env = Environment::new(LIMIT);
    let mut device = Device::start(&env, "--socket", "--rate 1000/s --size 100 --fifo 1KiB");
    let mut first = device.connect();
    let refused = Consumer::connect(&device.at).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("one consumer at a time"), "{refused}");
    let some = wait_for(LIMIT, || {
        first.drain();
        (first.accounts[0].delivered > 50).then_some(())
    });
    assert!(some.is_some());
    let mut whole = first.accounts[0].clone();
    let so_far = whole.lost;
    drop(first);
    let overflows = wait_for(LIMIT, || {
        device.say("account");
        (device.device_account().lost > so_far + 50).then_some(())
    });
    assert!(overflows.is_some(), "it does not continue while nobody is there");
    let mut second = device.connect();
    assert_eq!(second.status(), IS_RUNNING);
    std::mem::swap(&mut second.accounts[0], &mut whole);
    let more = wait_for(LIMIT, || {
        second.drain();
        (second.accounts[0].delivered > 200).then_some(())
    });
    assert!(more.is_some());
    second.command(0, 0);
    second.drain();
    let device_account = device.stop();
    second.accounts[0].check(&device_account.channels[0]).unwrap();
    assert_eq!((device_account.resets, device_account.consumers), (1, 2));
    assert!(device_account.refused >= 1);
}

/// Unplugged: the connection is closed, the mapping stays readable, the path is gone. Plugged in
/// again: another device, from 0.
#[test]
fn a_device_that_disappears_comes_back_empty() {
    let env = Environment::new(LIMIT);
    for place in ["--socket", "--file"] {
        let mut device = Device::start(&env, place, "--rate 1000/s --size 100 --fifo 2KiB");
        let connect = |device: &Device| match place {
            "--socket" => device.connect(),
            _ => Consumer::open(&device.at),
        };
        let mut first = connect(&device);
        let drained = |consumer: &mut Consumer, enough: u64| {
            let done = wait_for(LIMIT, || {
                consumer.drain();
                (consumer.accounts[0].delivered >= enough).then_some(())
            });
            assert!(done.is_some());
        };
        drained(&mut first, 100);
        assert!(!first.is_gone());
        device.say("disappear");
        assert!(wait_for(LIMIT, || first.is_gone().then_some(())).is_some());
        assert!(wait_for(LIMIT, || (!device.at.exists()).then_some(())).is_some());
        first.drain();
        device.say("reappear");
        device.wait_until_there(2);
        let mut second = connect(&device);
        drained(&mut second, 100);
        second.command(0, 0);
        second.drain();
        let device_account = device.stop();
        assert_eq!(second.accounts[0].verifier.first, Some(0), "numbers continue");
        let sum = |of: fn(&Account) -> u64| of(&first.accounts[0]) + of(&second.accounts[0]);
        // The consumer has drained from its mapping what was in the FIFO when the device
        // disappeared.
        assert_eq!(
            device_account.produced,
            sum(|a| a.delivered) + sum(|a| a.lost),
            "{place}: {device_account:?}"
        );
        assert!(!env.path("fpga").exists());
    }
}

/// Without interrupts, polled, with a device that pauses for a while: it does not make up for the
/// pause.
#[test]
fn a_polled_device_in_a_file_may_stall() {
    let env = Environment::new(LIMIT);
    let mut device =
        Device::start(&env, "--file", "--rate 1000/s --size 100 --fifo 64KiB --autostart");
    let mut consumer = Consumer::open(&device.at);
    device.say("stall=3s");
    device.say("account");
    let before = device.device_account();
    std::thread::sleep(Duration::from_millis(300));
    device.say("account");
    let during = device.device_account();
    assert!(during.produced - before.produced <= 1, "{before:?} {during:?}");
    let continued = wait_for(LIMIT, || {
        device.say("account");
        let device_account = device.device_account();
        consumer.drain();
        (device_account.produced > during.produced + 100).then_some(device_account)
    });
    let device_account = continued.expect("it continues");
    assert!(
        device_account.running_s > 3.0
            && device_account.produced < (device_account.running_s * 1000.0) as u64 - 2000,
        "{device_account:?}"
    );
    consumer.command(0, 0);
    consumer.drain();
    let device_account = device.stop();
    consumer.accounts[0].check(&device_account.channels[0]).unwrap();
    assert_eq!((device_account.interrupts, device_account.doorbells), (0, 0));
}
