//! What a room or a user may be called.
//!
//! Names are bytes to the relay: compared as they are, never normalised. What cannot be seen, or shows as another name, is
//! refused where one look at the characters tells. Letters that look like those of another script are not: which mixtures
//! are honest depends on the languages of a platform, which gives out its users' names anyway.

use protocol::ErrorCode;

/// Characters that show nothing or move those beside them, beside controls and spaces: soft hyphen, zero width, marks,
/// embeddings, overrides and isolates of direction, invisible operators, fillers, and the byte order mark. The joiners
/// U+200C and U+200D are part of words and emoji.
const INVISIBLE: [std::ops::RangeInclusive<char>; 11] = [
    '\u{ad}'..='\u{ad}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200b}',
    '\u{200e}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
];
/// Without letters beside them they show nothing.
const JOINERS: [char; 4] = ['\u{200c}', '\u{200d}', '\u{fe0e}', '\u{fe0f}'];

/// Checks a name.
pub fn check(name: &str, bytes_max: usize) -> Result<(), (ErrorCode, &'static str)> {
    if name.len() > bytes_max {
        return Err((ErrorCode::TooLarge, "a name is longer than the limit"));
    }
    let is_hidden = |c: char| c.is_control() || INVISIBLE.iter().any(|range| range.contains(&c));
    if name.is_empty() || name.chars().any(is_hidden) {
        return Err((ErrorCode::BadRequest, "a name is empty or has characters that cannot be seen"));
    }
    let is_edged = name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace);
    if is_edged || name.chars().all(|c| JOINERS.contains(&c)) {
        return Err((ErrorCode::BadRequest, "a name begins or ends with what cannot be seen"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_it_looks_like() {
        for good in ["ann", "방 1", "a b", "می‌خواهم", "👩‍👩‍👧", "❤️", "#general", "аnn", "a.b:c/d", "é", "-"]
        {
            assert_eq!(check(good, 64), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            " ",
            "   ",
            "ann ",
            " ann",
            "\u{a0}ann",
            "\u{200b}",
            "an\u{200b}n",
            "\u{202e}nna",
            "a\u{2066}b",
            "a\u{2028}b",
            "a\nb",
            "a\0b",
            "\u{9b}31m",
            "\u{feff}ann",
            "\u{200d}",
            "\u{fe0f}\u{200c}",
            "\u{3164}",
            "so\u{ad}ft",
            "ann\u{3000}",
        ] {
            assert_eq!(check(bad, 64).unwrap_err().0, ErrorCode::BadRequest, "{bad:?}");
        }
        assert_eq!(check("four", 3).unwrap_err().0, ErrorCode::TooLarge);
    }
}
