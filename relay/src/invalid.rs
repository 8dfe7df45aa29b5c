//! What was typed and cannot work.

/// A flag or limit that contradicts another one, or the machine: one line that names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);
