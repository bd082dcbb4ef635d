//! `fuzz-runner TARGET`: AFL++ gives it input after input.

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some(target) = fuzz::Target::find(&name) else {
        for target in fuzz::TARGETS {
            println!("{:20} {}", target.name, target.line);
        }
        return ExitCode::from(2);
    };
    afl::fuzz(true, |bytes| target.run(bytes));
    ExitCode::SUCCESS
}
