//! The operator tool chancery.
fn main() {}
