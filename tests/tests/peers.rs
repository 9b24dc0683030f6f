//! Who may do what, and how much one user may take: tried by other users, one of them hostile.

use ringweir::view::Viewer;
use ringweir::{Error, Options, Reason};
use ringweir_harness::environment::{Daemon, Environment, wait_for};
use ringweir_harness::proc;
use ringweir_harness::user::becoming;
use ringweir_needs::{needs_root, skip};
use ringweir_proto::os::socket;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(240);
const HOSTILE: u32 = 4711;
const OTHER: u32 = 4712;

fn reason(error: &Error) -> String {
    match error {
        Error::Refused { reason, text, .. } => format!("{reason:?}: {text}"),
        other => format!("{other:?}"),
    }
}

/// Each list gives its right and no other, over the socket. Controls: each row has a right that is
/// granted and one that is refused.
#[test]
fn each_list_grants_only_its_right() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let lists = [
        "--allow-uid",
        "5001",
        "--watch-uid",
        "5002",
        "--watch-gid",
        "5003",
        "--admin-uid",
        "5004",
    ];
    let broker = env.broker("service-lists", "gen:rate=100/s,size=64", &lists);
    let path = broker.path();
    let victim = Options::new("victim").attach(path).unwrap();
    let watch = Viewer::attach(path).unwrap();
    let (index, attached) = wait_for(LIMIT, || {
        let readers = watch.snapshot()?.readers;
        let of = |r: &ringweir::view::stats::ReaderFigures| {
            (
                r.get(ringweir::view::stats::ReaderFact::Index) as u32,
                r.get(ringweir::view::stats::ReaderFact::AttachedRealtime),
            )
        };
        readers.iter().find(|r| r.label == "victim").map(of)
    })
    .expect("it is shown");
    for (uid, looks, attaches, detaches) in [
        (5001, true, true, false),
        (5002, true, false, false),
        (5003, true, false, false),
        (5005, false, false, false),
    ] {
        let found = becoming(uid, || {
            let detached = ringweir::admin::detach(path, index, attached).map_err(|e| reason(&e));
            (
                Viewer::attach(path).is_ok(),
                Options::new("x").attach(path).map(drop).map_err(|e| reason(&e)),
                detached,
            )
        });
        assert_eq!(
            (found.0, found.1.is_ok(), found.2.is_ok()),
            (looks, attaches, detaches),
            "{uid}: {found:?}"
        );
        assert!(found.2.unwrap_err().starts_with("NotAllowed"));
        if looks && !attaches {
            assert!(found.1.unwrap_err().contains("may view statistics but not attach"));
        }
    }
    let (attaches, detached) = becoming(5004, || {
        (
            Options::new("x").attach(path).is_ok(),
            ringweir::admin::detach(path, index, attached).map_err(|e| reason(&e)),
        )
    });
    assert_eq!((attaches, detached), (false, Ok(())));
    drop((victim, watch));
    broker.end();
}

/// How many of these connections were closed.
fn hung_up(connections: &[OwnedFd]) -> usize {
    let mut all: Vec<_> = connections
        .iter()
        .map(|fd| rustix::event::PollFd::new(fd, rustix::event::PollFlags::empty()))
        .collect();
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let _some = rustix::event::poll(&mut all, Some(&now));
    all.iter().filter(|fd| fd.revents().contains(rustix::event::PollFlags::HUP)).count()
}

/// One user takes all that it can get: silent connections, reader indices, viewers, and connections
/// without end. It gets its share. Meanwhile another user and root are served, and the number of
/// the broker's descriptors stays within bounds. Controls: each limit is reached, and root, to whom
/// the limits of a single user do not apply, exceeds them.
#[test]
fn one_user_cannot_exhaust_what_others_need() {
    if !needs_root() {
        return;
    }
    let env = Environment::new(LIMIT);
    let args = [
        "--allow-uid",
        "4711",
        "--allow-uid",
        "4712",
        "--readers-per-user",
        "3",
        "--readers-max",
        "12",
    ];
    let broker = env.broker("service-share", "gen:rate=1000/s,size=64", &args);
    let path = broker.path().to_owned();
    let served = |uid: u32| {
        becoming(uid, || {
            let reader =
                Options::new("served").attach(&path).map_err(|e| reason(&e)).expect("served");
            drop((reader, Viewer::attach(&path).map_err(|e| reason(&e)).expect("served")));
        });
    };
    served(OTHER);
    let before = proc::settled_fds(broker.process.pid());

    let silent: Vec<_> =
        becoming(HOSTILE, || (0..200).map(|_| socket::connect(&broker.socket).unwrap()).collect());
    served(OTHER);
    served(HOSTILE);
    wait_for(LIMIT, || (hung_up(&silent) >= 200 - 32).then_some(())).expect("the oldest make room");

    let (kept, refused) = becoming(HOSTILE, || {
        let all: Vec<_> = (0..6).map(|_| Options::new("greedy").attach(&path)).collect();
        let (kept, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
        (kept, refused.into_iter().filter_map(Result::err).map(|e| reason(&e)).collect::<Vec<_>>())
    });
    assert_eq!((kept.len(), refused.len()), (3, 3));
    assert!(
        refused[0].starts_with("Full") && refused[0].contains("--readers-per-user"),
        "{refused:?}"
    );
    let roots: Vec<_> = (0..5).map(|_| Options::new("root").attach(&path)).collect();
    assert!(roots.iter().all(Result::is_ok), "the control");
    served(OTHER);

    let looks = |count: usize| {
        (0..count).map(|_| Viewer::attach(&path).map_err(|e| reason(&e))).collect::<Vec<_>>()
    };
    let views = becoming(HOSTILE, || looks(80));
    assert_eq!(views.iter().filter(|v| v.is_ok()).count(), 64);
    let refusal = views.iter().find_map(|v| v.as_ref().err()).unwrap();
    assert!(refusal.starts_with("Resources") && refusal.contains("uid 4711"), "{refusal}");
    assert!(looks(70).iter().all(Result::is_ok), "the control");
    served(OTHER);
    let most = before + 32 + 64 + 8 * 4 + 70 + 20;
    assert!(
        proc::open_fds(broker.process.pid()) <= most,
        "{} open, {before} before",
        proc::open_fds(broker.process.pid())
    );

    flood(&broker, &path);
    served(OTHER);
    drop((silent, kept, views, roots));
    broker.end();
}

/// Connects as fast as four threads can, until the broker refuses that.
fn flood(broker: &Daemon, path: &str) {
    let (began, refused) = (Instant::now(), std::sync::atomic::AtomicBool::new(false));
    let tries = std::sync::atomic::AtomicU32::new(0);
    let one = || {
        while !refused.load(std::sync::atomic::Ordering::Relaxed)
            && began.elapsed() < Duration::from_secs(30)
        {
            tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if let Err(e) = ringweir::view::describe(path)
                && reason(&e).contains("times per second")
            {
                assert!(matches!(e, Error::Refused { reason: Reason::Resources, .. }));
                refused.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| becoming(HOSTILE, one)))));
    let tries = tries.into_inner();
    if !refused.into_inner() {
        let rate = f64::from(tries) / began.elapsed().as_secs_f64();
        assert!(rate < 400.0, "{tries} connections, none refused: {}", broker.process.stderr());
        return skip(format_args!(
            "this machine makes {rate:.0} connections a second, too few to be refused"
        ));
    }
    // This limit does not apply to root: as many again.
    for _ in 0..1200 {
        ringweir::view::describe(path).map_err(|e| reason(&e)).expect("root is served");
    }
}
