//! Where a result goes: one directory a run, written whole or not at all, never over another one.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cli::RunArgs;
use crate::machine::Machine;
use crate::report::Report;

const RUNS: &str = "bench-results/runs";

/// The directory for this run's result, if one is wanted. A named one that has something in it is refused now, not
/// after the run.
pub fn choose(args: &RunArgs, machine: &Machine, begun_s: u64) -> Result<Option<PathBuf>, Error> {
    if args.no_output {
        return Ok(None);
    }
    if let Some(named) = &args.output {
        let empty = fs::read_dir(named).map_or_else(|_| !named.exists(), |mut entries| entries.next().is_none());
        if !empty {
            let found = named.display();
            return Err(Error::Usage(format!("--output {found}: is there already; valid is a new or empty directory")));
        }
        return Ok(Some(named.clone()));
    }
    let commit = args.commit.as_ref().map(|commit| format!("-{commit}")).unwrap_or_default();
    let name = format!("{}-{}{commit}-{}", date(begun_s), machine.slug(), args.name());
    let free = |path: &PathBuf| !path.exists();
    let numbered = (2..).map(|nth| Path::new(RUNS).join(format!("{name}-{nth}")));
    Ok(std::iter::once(Path::new(RUNS).join(&name)).chain(numbered).find(free))
}

/// Writes `result.txt` and `result.json` into a new directory that appears complete.
pub fn write(directory: &Path, report: &Report) -> Result<(), Error> {
    try_write(directory, report).map_err(|error| Error::Output { path: directory.to_owned(), error })
}

fn try_write(directory: &Path, report: &Report) -> io::Result<()> {
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let partial = parent.join(format!(".partial-{}", std::process::id()));
    fs::create_dir(&partial)?;
    let json = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
    let written = fs::write(partial.join("result.txt"), report.to_string())
        .and_then(|()| fs::write(partial.join("result.json"), json + "\n"))
        // Renaming over an existing directory only works when that one is empty: nothing is ever overwritten.
        .and_then(|()| fs::rename(&partial, directory));
    if written.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// A word that no other run has: five letters and digits, one of 33 million.
pub fn random_id() -> String {
    // Crockford's alphabet: none of them is taken for another.
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let bits = RandomState::new().build_hasher().finish();
    (0..5).map(|nth| LETTERS[(bits >> (5 * nth) & 31) as usize] as char).collect()
}

/// UTC date of a time in seconds since 1970 (civil from days, Howard Hinnant).
fn date(unix_s: u64) -> String {
    let days = unix_s / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (unix_s, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_735_689_600, "2025-01-01"),
        ] {
            assert_eq!(date(unix_s), expected);
        }
    }
}
