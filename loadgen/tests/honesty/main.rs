//! The tool against servers that misbehave in known ways, as real processes: each must be caught with exact counts.

mod absence;
mod chat;
mod deflate;
mod fake;
mod load;
mod scenarios;
