//! The engine for tests: everything in a map, nothing survives.
