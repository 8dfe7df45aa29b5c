//! Which JSON is passed on: what every common parser can read.
//!
//! A body reaches every member as its publisher wrote it, so one that ends a member's parser ends that member, again
//! whenever it reads that history.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Arrays and objects inside each other. Parsers that limit it begin at 64 (.NET); a publication in a page of history
/// already stands four deep.
const DEPTH_MAX: usize = 60;

/// Says what of these bytes not every parser can read, if there is something: they must be one JSON value, nested no
/// deeper than 60, its numbers within those of a double (Go and Rust refuse larger ones, Python integers of more than
/// 4,300 digits), its strings without half a surrogate pair (UTF-8 cannot hold one). Keys may repeat.
pub fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let Ok(text) = simdutf8::basic::from_utf8(bytes) else { return Err("the body is not UTF-8") };
    let mut json = serde_json::Deserializer::from_str(text);
    Readable { depth: 0 }.deserialize(&mut json).and_then(|()| json.end()).map_err(|error| reason(&error))
}

fn reason(error: &serde_json::Error) -> &'static str {
    let said = error.to_string();
    let reasons = [
        (TOO_DEEP, TOO_DEEP),
        ("number out of range", "a number of the body is larger than a double can be"),
        ("surrogate", "a string of the body has half a surrogate pair"),
        ("unexpected end of hex escape", "a string of the body has half a surrogate pair"),
    ];
    reasons.iter().find(|(part, _)| said.contains(part)).map_or("the body is not one JSON value", |(_, reason)| reason)
}

const TOO_DEEP: &str = "the body nests deeper than 60 levels";

/// Reads a value and keeps nothing of it.
struct Readable {
    depth: usize,
}

impl Readable {
    fn inside<E: Error>(&self) -> Result<usize, E> {
        if self.depth < DEPTH_MAX { Ok(self.depth + 1) } else { Err(E::custom(TOO_DEEP)) }
    }
}

impl<'de> DeserializeSeed<'de> for Readable {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let depth = self.inside()?;
        while elements.next_element_seed(Self { depth })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let depth = self.inside()?;
        while entries.next_key_seed(Self { depth })?.is_some() {
            entries.next_value_seed(Self { depth })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(depth: usize, open: &str, close: &str) -> String {
        open.repeat(depth) + "1" + &close.repeat(depth)
    }

    #[test]
    fn what_some_parsers_cannot_read_is_told_from_what_all_can() {
        let good = [
            r#"{"a":[1],"a":"twice"}"#.to_owned(),
            " null\n".to_owned(),
            r#""\ud83d\ude00 \u0000 \/""#.to_owned(),
            "-1.7976931348623157e308".to_owned(),
            "9".repeat(308),
            format!("0.{}", "1".repeat(5000)),
            "1e-5000".to_owned(),
            nested(DEPTH_MAX, "[", "]"),
            nested(DEPTH_MAX, "{\"a\":", "}"),
        ];
        for json in good {
            assert_eq!(check(json.as_bytes()), Ok(()), "{json}");
        }
        let number = "a number of the body is larger than a double can be";
        let half = "a string of the body has half a surrogate pair";
        let bad = [
            (nested(DEPTH_MAX + 1, "[", "]"), TOO_DEEP),
            (nested(4000, "[{\"a\":", "}]"), TOO_DEEP),
            ("9".repeat(400), number),
            (format!("[-{}]", "9".repeat(8000)), number),
            (r#"{"a":1e400}"#.to_owned(), number),
            (r#""\ud800""#.to_owned(), half),
            (r#""\ud800\n""#.to_owned(), half),
            (r#""\udc00""#.to_owned(), half),
            (r#""\udc00\ud800""#.to_owned(), half),
            (r#"{"\ud800":1}"#.to_owned(), half),
            ("{'a':1}".to_owned(), "the body is not one JSON value"),
            ("{} {}".to_owned(), "the body is not one JSON value"),
            (String::new(), "the body is not one JSON value"),
            ("NaN".to_owned(), "the body is not one JSON value"),
            ("\"a\nb\"".to_owned(), "the body is not one JSON value"),
        ];
        for (json, why) in bad {
            assert_eq!(check(json.as_bytes()), Err(why), "{json}");
        }
        assert_eq!(check(b"\"\xff\""), Err("the body is not UTF-8"));
    }

    /// JSON as a publisher may write it, to any depth, some of it wrong.
    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<f64>().prop_map(|number| number.to_string()),
            "-?[0-9]{1,400}(\\.[0-9]{1,5})?(e-?[0-9]{1,4})?",
            "\"(\\\\u[0-9a-f]{4}|\\\\ud[89ab][0-9a-f]{2}(\\\\ud[c-f][0-9a-f]{2})?|[a-z가]){0,4}\"",
        ];
        leaf.prop_recursive(80, 100, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|all| format!("[{}]", all.join(","))),
                inner.prop_map(|value| format!("{{\"k\": {value}}}")),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_let_through_a_strict_parser_reads(json in any_json()) {
            if check(json.as_bytes()).is_ok() {
                let value = serde_json::from_str::<serde_json::Value>(&json);
                prop_assert!(value.is_ok(), "{}", json);
                prop_assert!(depth(&value.unwrap()) <= DEPTH_MAX);
            }
        }

        #[test]
        fn what_a_strict_parser_reads_and_is_not_deep_is_let_through(json in any_json()) {
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&json)
                && depth(&value) <= DEPTH_MAX
            {
                prop_assert_eq!(check(json.as_bytes()), Ok(()));
            }
        }
    }

    fn depth(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
            serde_json::Value::Object(all) => 1 + all.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
}
