//! Control messages of a peer that is not trusted: decoding never panics, never allocates more than
//! a message, and what decodes encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringweir_proto::control::{LABEL_MAX, Reply, Request};

fuzz_target!(|body: &[u8]| {
    // As it came, and behind the header of this release, without which nothing is looked at any
    // further.
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
