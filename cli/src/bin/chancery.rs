//! `chancery`; all of it is in the library, so that its readers of files can be fuzzed.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
