//! `chanceryd`: the daemon and the tools that run beside it on the authority's machine.

use std::process::ExitCode;

// sled and prost make and drop millions of small values when the view is read; the system's allocator took a fifth of a start, and
// kept twice the memory afterwards (docs/decisions/0012-allocator.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    server::command::run()
}
