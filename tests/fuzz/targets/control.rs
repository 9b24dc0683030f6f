//! Control messages of an untrusted peer. Decoding must never panic or allocate more than a
//! message, and a decoded message must encode to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringweir_proto::control::{LABEL_MAX, Reply, Request};

fuzz_target!(|body: &[u8]| {
    // Once as it came, and once behind the header of this release, without which decoding stops at
    // once.
    look(body);
    let mut packet = Request::Describe.encode();
    packet.truncate(HEADER);
    packet.extend(body);
    look(&packet);
});

const HEADER: usize = 4;

fn look(packet: &[u8]) {
    if let Ok(request) = Request::decode(packet) {
        assert_eq!(request.encode(), packet);
        if let Request::Attach(attach) = &request {
            let cleaned = attach.clean_label();
            assert!(cleaned.len() <= LABEL_MAX);
            assert!(!cleaned.chars().any(char::is_control));
        }
    }
    if let Ok(reply) = Reply::decode(packet) {
        assert_eq!(reply.encode(), packet);
    }
}
