//! The live screen of `ringstat` and its terminal: it ends with its terminal, and a signal ends it
//! whatever the terminal does.

use ringweir_harness::terminal::Terminal;
use ringweir_harness::{Environment, Process, wait_for};
use rustix::process::Signal;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(30);

fn watch(env: &Environment, terminal: &Terminal) -> Process {
    let mut command = env.command("ringstat");
    terminal.give_to(&mut command);
    command.args(["live", "-w", "0.05"]);
    env.start(command)
}

fn ends(process: &mut Process) -> Option<i32> {
    wait_for(PATIENCE, || process.ended())?.code()
}

/// Control: as long as the terminal is there and is read, it continues.
#[test]
fn the_live_screen_ends_with_its_terminal() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("live", "gen:rate=1000/s,size=64", &[]);
    let mut terminal = Terminal::open();
    let mut process = watch(&env, &terminal);
    terminal.read_until("STREAM");
    for _ in 0..5 {
        terminal.read_until("\x1b[");
    }
    assert!(process.ended().is_none(), "{}", process.stderr());
    drop(terminal);
    assert!(ends(&mut process).is_some(), "it outlives its terminal");
    broker.end();
}

#[test]
fn a_signal_ends_the_live_screen_also_if_the_terminal_takes_nothing() {
    let env = Environment::new(LIMIT);
    let broker = env.broker("live", "gen:rate=1000/s,size=64", &[]);
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = Terminal::open();
        let mut process = watch(&env, &terminal);
        terminal.read_until("STREAM");
        std::thread::scope(|scope| {
            // The control: a terminal that is read.
            scope.spawn(|| terminal.read_until("\x1b[?1049l"));
            process.signal(signal);
            assert_eq!(ends(&mut process), Some(0), "{signal:?}: {}", process.stderr());
        });

        let mut terminal = Terminal::open();
        let mut process = watch(&env, &terminal);
        terminal.read_until("STREAM");
        // As Ctrl-S does. By its next frame it waits in a write.
        terminal.stop();
        std::thread::sleep(Duration::from_millis(500));
        process.signal(signal);
        assert!(ends(&mut process).is_some(), "{signal:?}: {}", process.stderr());
    }
    broker.end();
}
