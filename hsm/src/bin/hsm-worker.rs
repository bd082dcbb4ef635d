//! A worker on its own, for this crate's tests; the product's workers are `chanceryd hsm-worker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => hsm::worker::run(),
        Some("ceremony") => hsm::ceremony::run_child(),
        Some(_) => ExitCode::FAILURE,
    }
}
