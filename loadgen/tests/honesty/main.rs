//! The tool against servers that misbehave in known ways, as real processes: each must be caught with exact counts.

mod absence;
mod chat;
mod deflate;
mod fake;
mod fault;
mod load;
mod scenarios;
