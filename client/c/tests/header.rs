//! The committed C header is what cbindgen makes of `src/` today.
//!
//! `RINGWEIR_HEADER=write cargo test -p ringweir-c --test header` writes it again. Control:
//! `a_changed_entry_is_noticed`.

use std::path::PathBuf;

/// In the order of the header. `args.rs` is not among them: its types are plain pointers to C.
const SOURCES: [&str; 12] = [
    "lib.rs",
    "codes.rs",
    "border.rs",
    "options.rs",
    "types.rs",
    "reader.rs",
    "gap.rs",
    "properties.rs",
    "pairs.rs",
    "detach.rs",
    "latencies.rs",
    "publisher.rs",
];
const LAST: &str = "viewer.rs";

fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The types of `args.rs` as the header shows them, which has no use for their invariants.
const POINTERS: [(&str, &str); 4] =
    [("In<'_, ", "*const "), ("InMut<'_, ", "*mut "), ("Out<'_, ", "*mut "), ("Back<", "*mut ")];

/// A source in which arguments are declared with raw pointers.
fn with_raw_pointers(source: &str) -> String {
    let mut done = source.replace("Text<'_>", "*const c_char").replace("Text<'a>", "*const c_char");
    for (typed, raw) in POINTERS {
        while let Some(at) = done.find(&format!(": {typed}")).map(|at| at + ": ".len()) {
            let mut open = 0;
            let end = done[at..].char_indices().find(|(_, c)| {
                open += i32::from(*c == '<') - i32::from(*c == '>');
                *c == '>' && open == 0
            });
            let end = at + end.expect("the end of the type").0;
            let pointee = done[at + typed.len()..end].to_owned();
            done.replace_range(at..=end, &format!("{raw}{pointee}"));
        }
    }
    done
}

/// The header generated from the sources, after `edit` has changed the last one.
fn header(edit: impl Fn(String) -> String) -> String {
    let config = cbindgen::Config::from_file(here("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (n, source) in SOURCES.iter().chain([&LAST]).enumerate() {
        // Each in a separate directory: there `mod` finds no files, so nothing is declared twice.
        let alone = dir.path().join(n.to_string());
        std::fs::create_dir(&alone).expect("a directory");
        let text = std::fs::read_to_string(here("src").join(source)).expect("a source");
        let text = if *source == LAST { edit(text) } else { text };
        std::fs::write(alone.join(source), with_raw_pointers(&text)).expect("a source");
        builder = builder.with_src(alone.join(source));
    }
    let mut made = Vec::new();
    builder.generate().expect("cbindgen").write(&mut made);
    String::from_utf8(made).expect("UTF-8")
}

#[test]
fn the_committed_header_is_that_of_the_sources() {
    let (made, path) = (header(|source| source), here("include/ringweir.h"));
    if std::env::var_os("RINGWEIR_HEADER").is_some_and(|v| v == "write") {
        std::fs::write(&path, &made).expect("the header");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((n, (is, should))) =
        committed.lines().zip(made.lines()).enumerate().find(|(_, (is, should))| is != should)
    {
        eprintln!("line {}:\n  committed {is}\n  generated {should}", n + 1);
    }
    assert!(
        committed == made,
        "client/c/include/ringweir.h is not that of client/c/src; write it anew and look at the \
        difference:\n\
         RINGWEIR_HEADER=write cargo test -p ringweir-c --test header && git diff client/c/include"
    );
}

/// Every entry of the library is in the header, once, and a change of one argument changes it.
#[test]
fn a_changed_entry_is_noticed() {
    let made = header(|source| source);
    let edit = |source: String| {
        source.replacen("reader: c_int) -> *const c_char", "reader: u64) -> *const c_char", 1)
    };
    assert_ne!(made, header(edit));
    let mut entries = 0;
    for file in std::fs::read_dir(here("src")).expect("src").flatten() {
        let source = std::fs::read_to_string(file.path()).expect("a source");
        for name in
            source.split("extern \"C\" fn ").skip(1).filter_map(|rest| rest.split('(').next())
        {
            let declared =
                |line: &&str| !line.starts_with(' ') && line.contains(&format!("{name}("));
            let times = made.lines().filter(declared).count();
            assert_eq!(times, 1, "{name} of {:?} is in the header {times} times", file.file_name());
            entries += 1;
        }
    }
    assert!(entries > 30, "{entries}");
}
