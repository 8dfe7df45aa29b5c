//! The publishes: chat lines of 40 to 120 bytes with a sender and a key.

use loadgen::text::write_body;

/// Different lines, enough that none repeats within a block of a table.
const LINES: u32 = 8192;
const LINE_BYTES: std::ops::RangeInclusive<usize> = 40..=120;

/// What each publish looks like, for the heading.
pub fn shape() -> String {
    let lines = lines();
    let mean = lines.iter().map(String::len).sum::<usize>() / lines.len();
    format!(
        "bodies of {} to {} bytes, {mean} on average, with a sender and a key",
        LINE_BYTES.start(),
        LINE_BYTES.end()
    )
}

/// The same lines each time.
pub fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for k in 0.. {
        write_body(1, k % 100, k, &mut line);
        if line.len() >= *LINE_BYTES.start() {
            if line.len() <= *LINE_BYTES.end() {
                lines.push(std::mem::take(&mut line));
            }
            line.clear();
        }
        if lines.len() == LINES as usize {
            break;
        }
    }
    lines
}
