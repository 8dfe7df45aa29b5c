//! Chat messages as people write them in a live stream, a deterministic function of (seed, user, k).
//!
//! The mix of kinds and lengths is what matters to a relay: many short lines, a long tail, two scripts, repeats that
//! compress well. Each body ends in a tag ` ·user.k`, so every message differs and says who sent it.

use std::fmt::Write;

use crate::dice::Dice;

const TAG: &str = " ·";

const LAUGHS: &[&str] = &["ㅋ", "ㅋㅋ", "ㅎㅎ", "ㅠㅠ", "하하", "lol ", "ha", "LUL ", "www", "ㄷㄷ"];
const EMOTES: &[&str] = &[
    "KEKW",
    "PogChamp",
    "monkaS",
    "Sadge",
    ":heart:",
    ":fire:",
    "🔥",
    "👏",
    "😂",
    "😭",
    "❤️",
    "GG",
    "EZ Clap",
    "PepeHands",
    "catJAM",
    "peepoClap",
    "👍",
    "🎉",
];
const KO_OPEN: &[&str] = &[
    "와",
    "진짜",
    "아니",
    "근데",
    "오늘",
    "형님",
    "이번 판",
    "방금 그거",
    "드디어",
    "솔직히",
    "여러분",
    "다들",
    "어제부터",
    "처음 왔는데",
];
const KO_SUBJECT: &[&str] = &[
    "컨트롤이",
    "이 노래",
    "마이크 소리가",
    "화면이",
    "운영이",
    "상대 팀이",
    "한타가",
    "방송 분위기가",
    "채팅이",
    "마지막 궁이",
    "썸네일이",
    "목소리가",
    "이 맵은",
    "다음 게임이",
    "후원 알림이",
];
const KO_SAY: &[&str] = &[
    "미쳤다",
    "너무 좋아요",
    "좀 끊기는 것 같아요",
    "레전드네",
    "개웃기네",
    "살짝 아쉽다",
    "역시 다르다",
    "장난 아니다",
    "기대됩니다",
    "처음 봐요",
    "너무 빨라서 못 봤어요",
    "다시 보고 싶다",
    "완전 취향 저격",
    "조금 큰 것 같아요",
];
const KO_END: &[&str] = &["", "", "!", "!!", "~", "...", " ㅋㅋㅋ", " ㅠㅠ", " 대박", " 감사합니다", " 응원해요"];
const KO_ASK: &[&str] = &[
    "오늘 방송 몇 시까지 해요?",
    "이 게임 이름이 뭐예요?",
    "지금 몇 연승이에요?",
    "키보드 뭐 쓰세요?",
    "다음 방송 언제예요?",
    "이거 협동도 되나요?",
    "방금 뭐라고 하셨어요?",
    "노래 제목 아시는 분?",
    "저만 렉 걸리나요?",
    "저녁 뭐 드셨어요?",
];
const EN_OPEN: &[&str] = &[
    "ok but",
    "honestly",
    "wait",
    "chat",
    "bro",
    "yo",
    "imagine",
    "no way",
    "first time here and",
    "i swear",
    "tbh",
    "nah",
    "alright",
];
const EN_SUBJECT: &[&str] = &[
    "that flick",
    "this song",
    "the audio",
    "that last fight",
    "this boss",
    "the timing",
    "your aim",
    "the new patch",
    "that comeback",
    "the overlay",
    "this run",
    "the other team",
    "that dodge",
];
const EN_SAY: &[&str] = &[
    "was insane",
    "is way too loud",
    "is so good",
    "looks a bit laggy",
    "makes no sense",
    "is a whole vibe",
    "was actually clean",
    "keeps getting better",
    "should be illegal",
    "cost us the game",
    "is my favourite part",
    "deserves a clip",
];
const EN_END: &[&str] = &["", "", "!", "!!", "...", " lol", " fr", " ngl", " <3", " let's goooo", " omg"];
const EN_ASK: &[&str] = &[
    "what rank is this?",
    "how long are you live today?",
    "song name anyone?",
    "is this ranked or scrims?",
    "what sens do you use?",
    "did i miss the boss fight?",
    "when is the next stream?",
    "anyone else getting lag?",
    "can you show the build again?",
    "why not just go left?",
];
const CHANTS: &[&str] = &[
    "가즈아",
    "GOGO",
    "화이팅!",
    "막아 막아",
    "한 판 더",
    "ONE MORE GAME",
    "RUN IT BACK",
    "!drop",
    "나락도 락이다",
    "LETS GO",
    "우승 가자",
    "출첵",
];

/// Appends the body of message `k` of `user`.
pub fn write_body(seed: u64, user: u32, k: u32, out: &mut String) {
    let dice = &mut Dice::new(seed ^ 0x7e57, u64::from(user), u64::from(k));
    match dice.below(100) {
        0..20 => laugh(dice, out),
        20..32 => emotes(dice, out),
        32..58 => korean(dice, out),
        58..78 => english(dice, out),
        78..90 => out.push_str(if dice.below(2) == 0 { dice.pick(KO_ASK) } else { dice.pick(EN_ASK) }),
        90..96 => chant(dice, out),
        _ => story(dice, out),
    }
    let _ = write!(out, "{TAG}{user}.{k}");
}

/// The (user, k) at the end of a body, if it is one of ours.
pub fn read_tag(body: &[u8]) -> Option<(u32, u32)> {
    let start = body.iter().rposition(|&byte| byte == b' ')?;
    let digits = std::str::from_utf8(&body[start..]).ok()?.strip_prefix(TAG)?;
    let (user, k) = digits.split_once('.')?;
    Some((user.parse().ok()?, k.parse().ok()?))
}

fn laugh(dice: &mut Dice, out: &mut String) {
    let unit = dice.pick(LAUGHS);
    for _ in 0..=dice.below(2).max(dice.below(14)) {
        out.push_str(unit);
    }
}

fn emotes(dice: &mut Dice, out: &mut String) {
    let same = (dice.below(2) == 0).then(|| dice.pick(EMOTES));
    for nth in 0..=dice.below(6) {
        if nth > 0 {
            out.push(' ');
        }
        out.push_str(same.unwrap_or_else(|| dice.pick(EMOTES)));
    }
}

fn korean(dice: &mut Dice, out: &mut String) {
    for words in [KO_OPEN, KO_SUBJECT] {
        out.push_str(dice.pick(words));
        out.push(' ');
    }
    out.push_str(dice.pick(KO_SAY));
    out.push_str(dice.pick(KO_END));
}

fn english(dice: &mut Dice, out: &mut String) {
    for words in [EN_OPEN, EN_SUBJECT] {
        out.push_str(dice.pick(words));
        out.push(' ');
    }
    out.push_str(dice.pick(EN_SAY));
    out.push_str(dice.pick(EN_END));
}

/// One short call, over and over, as a crowd pastes it.
fn chant(dice: &mut Dice, out: &mut String) {
    let unit = dice.pick(CHANTS);
    for nth in 0..2 + dice.below(7) {
        if nth > 0 {
            out.push(' ');
        }
        out.push_str(unit);
    }
}

/// Several sentences: the long tail.
fn story(dice: &mut Dice, out: &mut String) {
    let korean_speaker = dice.below(2) == 0;
    for nth in 0..3 + dice.below(4) {
        if nth > 0 {
            out.push_str(". ");
        }
        if korean_speaker { korean(dice, out) } else { english(dice, out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(seed: u64, user: u32, k: u32) -> String {
        let mut out = String::new();
        write_body(seed, user, k, &mut out);
        out
    }

    #[test]
    fn a_body_says_who_sent_it() {
        for user in [0, 1, 12_345, u32::MAX] {
            for k in 0..200 {
                let text = body(7, user, k);
                assert_eq!(read_tag(text.as_bytes()), Some((user, k)), "seed 7: {text}");
            }
        }
    }

    #[test]
    fn bodies_without_our_tag_are_not_ours() {
        for text in
            ["", "hello", "hello ·", "hello ·1", "hello ·1.", "hello ·1.x", "hello ·1.2 ", "1.2", " ·99999999999.1"]
        {
            assert_eq!(read_tag(text.as_bytes()), None, "{text}");
        }
        assert_eq!(read_tag(&[0xff, b' ', 0xff]), None);
    }

    #[test]
    fn bodies_repeat_exactly_for_the_same_seed_and_differ_otherwise() {
        assert_eq!(body(1, 2, 3), body(1, 2, 3));
        assert_ne!(body(1, 2, 3), body(2, 2, 3));
        let all: std::collections::HashSet<_> = (0..5_000).map(|user| body(1, user, 0)).collect();
        assert_eq!(all.len(), 5_000);
    }

    #[test]
    fn lengths_vary_like_chat() {
        let mut lengths: Vec<usize> = (0..10_000).map(|user| body(1, user, 0).len()).collect();
        lengths.sort_unstable();
        let (median, p99) = (lengths[5_000], lengths[9_900]);
        assert!((30..80).contains(&median), "median {median} bytes");
        assert!((120..500).contains(&p99), "p99 {p99} bytes");
        assert!(lengths[0] < 15 && lengths[9_999] < 700, "{} to {} bytes", lengths[0], lengths[9_999]);
    }
}
