//! A network interface that goes and comes back, with whole programs: `ringsend` sends through it
//! again, and a confined broker receives from it again.
//!
//! Contract: these tests need root and are skipped without it.

use ringweir::view::Viewer;
use ringweir::view::stats::PumpCounter;
use ringweir_harness::netns::{Namespace, Wire};
use ringweir_harness::{Environment, programs, wait_for};
use ringweir_needs::{needs, needs_network_namespaces};
use rustix::io::Errno;
use rustix::net::sockopt;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(40);

/// Makes the wire from `va` in `far`, with this index and this address, to `vb` in `near`.
fn plug(wire: &Wire, index: u32, address: &str) {
    wire.far.shell(&format!(
        "ip link add va index {index} type veth peer name vb netns {}",
        wire.near.path()
    ));
    wire.near.shell(&format!("ip link set vb up; ip address add {}/24 dev vb", Wire::NEAR));
    addressed(&wire.far, address);
}

/// Shell lines that make `va` usable in `far`.
fn addressed(far: &Namespace, address: &str) {
    far.shell(&format!("ip link set va up; ip address replace {address}/24 dev va"));
}

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 77, 0, 1);

/// Waits for a datagram that comes over the wire now.
fn receives(wire: &Wire, to: SocketAddr) -> bool {
    let socket = wire.near.within(|| {
        let socket = UdpSocket::bind(("0.0.0.0", to.port())).unwrap();
        if to.ip().is_multicast() {
            socket.join_multicast_v4(&GROUP, &Wire::NEAR.parse().unwrap()).unwrap();
        }
        socket
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.recv(&mut [0; 100]).is_ok()
}

/// To a group and to an address, with and without `@INTERFACE`, whatever happens to the interface,
/// and if the address of this end is another one afterwards. Control: a socket that keeps the index
/// of the first interface is refused.
#[test]
fn ringsend_continues_through_an_interface_that_comes_back() {
    if !needs_network_namespaces() {
        return;
    }
    let env = Environment::new(LIMIT);
    let (wire, elsewhere) = (Wire::new().unwrap(), Namespace::new().unwrap());
    wire.far.shell("ip link del va");
    plug(&wire, 700, Wire::FAR);
    let broker = env.broker("s", "gen:rate=200/s,size=64", &[]);
    let targets = ["239.77.0.1:26400@va", "10.77.0.2:26401@va", "10.77.0.2:26402"].map(|target| {
        let mut command = env.command("ringsend");
        command.args(["s", "--to", &format!("udp:{target}")]);
        wire.far.enter(&mut command);
        let to: SocketAddr = target.split('@').next().unwrap().parse().unwrap();
        (target, to, env.start(command))
    });
    let keeps = wire.far.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    let any = Ipv4Addr::UNSPECIFIED;
    sockopt::set_ip_multicast_if_with_ifindex(&keeps, &any, &any, 700).unwrap();
    let refused = || {
        let sent = wire.far.within(|| keeps.send_to(b"?", (GROUP, 9)));
        sent.map_err(|e| Errno::from_io_error(&e))
    };

    let far = |lines: &str| drop(wire.far.shell(lines));
    let changes: [(&str, &dyn Fn()); 7] = [
        ("nothing", &|| ()),
        ("down and up", &|| {
            far("ip link set va down");
            addressed(&wire.far, Wire::FAR);
        }),
        ("renamed and renamed back", &|| {
            far("ip link set va down; ip link set va name vx; ip link set vx up; sleep 0.3; \
                 ip link set vx down; ip link set vx name va");
            addressed(&wire.far, Wire::FAR);
        }),
        ("moved away and back", &|| {
            far(&format!("ip link set va netns {}; sleep 0.3", elsewhere.path()));
            elsewhere.shell(&format!("ip link set va netns {}", wire.far.path()));
            addressed(&wire.far, Wire::FAR);
        }),
        ("made again with the same index", &|| {
            far("ip link del va; sleep 0.3");
            plug(&wire, 700, Wire::FAR);
        }),
        ("made again with another index", &|| {
            far("ip link del va; sleep 0.3");
            plug(&wire, 701, Wire::FAR);
        }),
        ("made again with another index and address", &|| {
            far("ip link del va");
            plug(&wire, 702, "10.77.0.9");
        }),
    ];
    for (change, make) in changes {
        make();
        for (target, to, sender) in &targets {
            assert!(receives(&wire, *to), "{target}, {change}: {}", sender.stderr());
        }
        let expected =
            if change.contains("another index") { Err(Some(Errno::NODEV)) } else { Ok(1) };
        assert_eq!(refused(), expected, "control, {change}");
    }
    drop(targets);
    broker.end();
}

/// A broker in its sandbox receives from an interface that was made again, with and without
/// CAP_NET_RAW. Control: the broker saw that it was gone.
#[test]
fn a_confined_broker_receives_from_an_interface_that_comes_back() {
    if !needs("setpriv") || !needs_network_namespaces() {
        return;
    }
    let env = Environment::new(LIMIT);
    for (number, bounding) in ["+all", "-net_raw"].into_iter().enumerate() {
        let wire = Wire::new().unwrap();
        let name = format!("if-{number}");
        let mut command = env.command_at("setpriv".as_ref());
        command.args(["--bounding-set", bounding]).arg(programs::path("ringd"));
        command.arg("--run-dir").arg(env.run_dir());
        command.args(["run", "--name", &name, "--source", "udp:0.0.0.0:5000@vb"]);
        wire.near.enter(&mut command);
        let broker = env.broker_of(&name, command);
        let watch = Viewer::attach(broker.path()).unwrap();
        let published = || watch.snapshot().map_or(0, |shown| shown.pump(PumpCounter::Published));
        let mut sent = 0;
        let mut passes = || {
            let before = published();
            let sender = wire.far.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
            wait_for(PATIENCE, || {
                sent += 1;
                let _unreachable_at_first = sender.send_to(&[7; 10], "10.77.0.2:5000");
                (published() > before).then_some(())
            })
        };
        assert!(passes().is_some(), "{bounding}: {}", broker.process.stderr());
        for seen in [true, false] {
            wire.near.shell("ip link del vb");
            if seen {
                let gone = || broker.process.stderr().contains("vb is gone").then_some(());
                assert!(wait_for(PATIENCE, gone).is_some(), "{}", broker.process.stderr());
            }
            wire.plug();
            assert!(passes().is_some(), "{bounding}: {}", broker.process.stderr());
        }
        broker.end();
    }
}
