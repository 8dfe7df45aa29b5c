//! The default engine: an embedded LSM tree (fjall) in a directory, durable by group commit with fsync.
