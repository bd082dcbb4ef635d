//! The daemon chanceryd: listeners, mTLS, caller, authorisation, approvals, composition.
fn main() {}
