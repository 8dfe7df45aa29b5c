//! What cannot be read.

/// A message, or a sub-protocol, that a dialect cannot read; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);
