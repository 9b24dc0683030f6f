//! A reader in a container, made with `unshare`: its own namespaces for users, mounts, processes,
//! ipc and network. It needs only the socket, mounted there, and membership of its group.

use ringweir_harness::environment::{Environment, NOBODY};
use ringweir_harness::programs;
use ringweir_needs::{needs_root, needs_user_namespaces};
use std::process::{Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
const GROUP: &str = "47110";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs `script` in a container as [`NOBODY`] with these supplementary groups.
fn contained(env: &Environment, groups: &[&str], script: &str) -> Output {
    let mut command = env.command_at("setpriv".as_ref());
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id]).args(groups);
    command.args([
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "--ipc",
        "--net",
    ]);
    command.args(["sh", "-ec", script]).stdout(Stdio::piped());
    env.start(command).output()
}

/// With the socket alone it reads, verifies and shows the stream; it sees neither the broker, nor
/// the host's /dev/shm or network. Controls: without the group it is refused, and outside the
/// container all of that can be seen.
#[test]
fn a_reader_in_a_container_needs_the_socket_and_its_group() {
    if !needs_root() || !needs_user_namespaces() {
        return;
    }
    let env = Environment::new(LIMIT);
    for program in ["ringcat", "ringctl"] {
        programs::copy(program, &env.path(program));
    }
    let broker = env.broker(
        "service-box",
        "gen:rate=1000/s,size=64",
        &["--group", GROUP, "--linger", "forever"],
    );
    let (bin, socket, run) = (env.path(""), broker.path().to_owned(), env.run_dir());
    let mounted = env.path("mounted.sock");
    std::fs::write(&mounted, "").unwrap();
    let script = format!(
        "mount --bind {socket} {mounted}\n\
         mount -t tmpfs none {run}; mount -t tmpfs none /dev/shm\n\
         test ! -e {socket}; test -z \"$(ls /dev/shm)\"; test \"$(cat /proc/1/comm)\" = sh\n\
         {bin}/ringcat {mounted} -n 20 --verify\n\
         {bin}/ringctl show {mounted} --json | grep -q service-box && echo looked",
        mounted = mounted.display(),
        run = run.display(),
        bin = bin.display(),
    );
    let inside = contained(&env, &["--groups", GROUP], &script);
    let text = said(&inside);
    assert!(
        inside.status.success() && text.contains("verified: 20 right") && text.contains("looked"),
        "{text}"
    );
    let outside = contained(&env, &["--clear-groups"], &script);
    assert!(
        !outside.status.success() && said(&outside).contains("not allowed to connect"),
        "{}",
        said(&outside)
    );
    assert_eq!(env.objects().len(), 1, "the control: outside there is a ring to see");
    broker.end();
}
