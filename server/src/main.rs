//! `chanceryd`: the daemon and the tools that run beside it on the authority's machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::command::run()
}
