//! Where what a token cannot make itself may be made.

/// What happens with a job that needs a secret outside the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Boundary {
    /// What the token cannot make is made in zeroized memory of the worker.
    Worker,
    /// What the token cannot make is refused.
    InsideOnly,
}
