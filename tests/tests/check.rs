//! `ringd --check FILE`: every fault of a file is reported, and nothing is made. And what is often
//! typed wrong is answered with what was meant.

use ringweir_harness::Environment;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Exit status, stdout, stderr.
fn check(env: &Environment, how: &str, text: &str) -> (Option<i32>, String, String) {
    let file = env.path("streams.toml");
    std::fs::write(&file, text).expect("the file");
    let dir = env.run_dir();
    let args = [how, file.to_str().unwrap(), "--run-dir", dir.to_str().unwrap()];
    let output = env.run("ringd", &args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Control: the same file without its faults passes.
#[test]
fn all_faults_of_a_file_are_reported_and_nothing_is_made() {
    let env = Environment::new(LIMIT);
    let good = "[[stream]]\nname = 'a'\nsource = 'gen:rate=1MB/s'\ndepth = '3s'\n\
                allow-uid = ['root', 7]\n\
                [[stream]]\nname = 'b'\nsource = 'udp:127.0.0.1:9'\n";
    let (status, text, said) = check(&env, "--check", good);
    assert_eq!((status, said.as_str()), (Some(0), ""), "{text}");
    assert!(text.contains("a: gen:rate=1MB/s: ") && text.contains(" = 3 s at 1 MB/s"), "{text}");
    assert!(text.contains("nothing wrong found; 2 streams"), "{text}");
    let bad = good.replace("udp:127.0.0.1:9", "upd:9").replace("'3s'", "'3s'\nreaders-max = 0");
    let (status, text, said) = check(&env, "--check", &format!("later = ['pakcet']\n{bad}"));
    assert_eq!(status, Some(1), "{said}");
    for part in ["stream \"a\": --readers-max 0", "stream \"b\": no source \"upd\"", "\"pakcet\""] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!text.contains("nothing wrong"), "{text}");
    assert_eq!((env.left().len(), env.objects().len()), (0, 0));
}

#[test]
fn what_is_often_typed_wrong_is_answered_with_what_was_meant() {
    let env = Environment::new(LIMIT);
    let stream = "name = 'a'\nsource = 'gen:'\n";
    for (text, says) in [
        (format!("[stream]\n{stream}"), "line 1: [stream] is one table; write [[stream]]"),
        (format!("[[stream]]\n{stream}allow-uid = ['nosuchuser']\n"), "id -u nosuchuser"),
        (format!("[[stream]]\n{stream}admin-gid = 'root'\n"), "expected a list, such as"),
    ] {
        for how in ["--check", "--config"] {
            let (status, _, said) = check(&env, how, &text);
            assert!(status == Some(1) && said.contains(says), "{how}: {said}");
        }
    }
}
