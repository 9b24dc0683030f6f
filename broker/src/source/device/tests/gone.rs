//! Devices that disconnect or never run: reported once, and what they have stored is not lost.

use super::*;

/// A device that disconnects leaves what it had stored in its memory, which stays mapped. With and
/// without interrupts, and even if it continues storing forever. (A device that is unplugged leaves
/// nothing, as tested above.)
#[test]
fn data_stored_before_a_hang_up_is_not_lost() {
    for features in [HAS_INTERRUPT, 0] {
        let mut rig = Rig::new(Shape { features, channels: 2, ..SHAPE });
        for _ in 0..30 {
            rig.store(1, 40);
        }
        rig.store(0, 40);
        let (stored, lost) =
            (rig.feeds[1].produced() - rig.feeds[1].lost() + 1, rig.feeds[1].lost());
        assert!(lost > 0);
        SLOT.set(None);
        rig.model.registers().status.ready.store(0, Ordering::Relaxed);
        rig.model.hung_up.store(true, Ordering::Relaxed);
        rig.run();
        assert_eq!(
            (rig.got.len() as u32, rig.bench.gone.len()),
            (stored, 1),
            "features {features}"
        );
        assert_eq!(
            rig.bench.count(PumpCounter::DeviceLost),
            u64::from(lost),
            "and what it lost is reported"
        );
        assert!(rig.bench.notices().iter().any(|t| t.contains("disconnected")));
    }
    let mut rig = Rig::new(SHAPE);
    SLOT.set(None);
    rig.model.hung_up.store(true, Ordering::Relaxed);
    for _ in 0..200 {
        rig.store(0, 40);
        rig.bench.round(&mut rig.device);
        rig.bench.now += 1_000_000;
    }
    assert_eq!(
        rig.bench.count(PumpCounter::SourceGone),
        1,
        "it is let go though it never stops storing"
    );
}

/// A device that resets itself when it is opened and then does not run is reported as gone, once,
/// and looked for.
#[test]
fn device_that_never_runs_is_reported() {
    let model = DeviceModel::new(&SHAPE);
    model.stuck.store(true, Ordering::Relaxed);
    SLOT.set(Some(model.clone()));
    let device = open_slot(64);
    let bench = Bench::new(1 << 20, 512);
    let feeds = vec![Feed::new(&SHAPE)];
    let mut rig = Rig { model, feeds, device, bench, got: Vec::new() };
    for _ in 0..20 {
        rig.run();
    }
    assert_eq!(rig.bench.count(PumpCounter::SourceGone), 1);
    let reported = rig.bench.notices();
    assert!(
        reported.len() == 1 && reported[0].contains("does not start within a second (status 0x0)"),
        "{reported:?}"
    );
    rig.model.stuck.store(false, Ordering::Relaxed);
    rig.run();
    rig.store(0, 8);
    rig.run();
    assert_eq!(rig.got.len(), 1, "and it may come round");
    assert!(rig.bench.notices().iter().any(|t| t.contains("is back")));
}
