//! Frames between daemon and worker. Both ends are the same build, but a worker has a foreign module inside it.

pub fn run(bytes: &[u8]) {
    let Some((kind, frame)) = bytes.split_first() else { return };
    if let Some(read) = hsm::frames::reread(*kind, frame) {
        let again = hsm::frames::reread(*kind, &read).expect("what was written reads");
        assert_eq!(again, read);
    }
}
