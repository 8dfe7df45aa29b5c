//! What went wrong, by class: connections refused or closed, replies that were errors, bytes nobody could read.

use std::collections::{BTreeMap, HashSet};

use serde::{Serialize, Serializer};

/// More classes than this are counted together, so that a server's inventive texts cannot fill the report.
const CLASSES_MAX: usize = 50;

/// The users that met each class of fault, in words for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Faults(BTreeMap<String, Class>);

/// One class: each user counts once, however often it met it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Class {
    #[serde(serialize_with = "as_count")]
    pub users: HashSet<u32, foldhash::fast::FixedState>,
    pub times: u64,
}

impl Faults {
    /// Counts a fault that this user met.
    pub fn count(&mut self, user: u32, class: String) {
        let class = self.class(class);
        class.users.insert(user);
        class.times += 1;
    }

    /// Takes out all classes that begin like this.
    #[must_use]
    pub fn split_off(&mut self, beginning: &str) -> Self {
        let (taken, kept) =
            std::mem::take(&mut self.0).into_iter().partition(|(class, _)| class.starts_with(beginning));
        self.0 = kept;
        Self(taken)
    }

    /// Adds another thread's faults.
    pub fn add(&mut self, other: Self) {
        for (class, found) in other.0 {
            let class = self.class(class);
            class.users.extend(found.users);
            class.times += found.times;
        }
    }

    /// All classes together, a user once in each.
    pub fn total(&self) -> u64 {
        self.0.values().map(|class| class.users.len() as u64).sum()
    }

    /// Classes and how many users met them, the most frequent first.
    pub fn by_frequency(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(class, found)| (class.as_str(), found.users.len() as u64)).collect();
        all.sort_by_key(|&(_, users)| std::cmp::Reverse(users));
        all
    }

    fn class(&mut self, class: String) -> &mut Class {
        let full = self.0.len() >= CLASSES_MAX && !self.0.contains_key(&class);
        self.0.entry(if full { "other".to_owned() } else { class }).or_default()
    }
}

/// A server's own words, as a class: times, counts and names that differ from user to user do not make one each.
pub fn without_numbers(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        match (c.is_ascii_digit(), out.ends_with('N')) {
            (true, true) => {}
            (true, false) => out.push('N'),
            (false, _) => out.push(c),
        }
    }
    out
}

fn as_count<S: Serializer>(users: &HashSet<u32, foldhash::fast::FixedState>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(users.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_counts_once_in_a_class_and_threads_add_up() {
        let (mut a, mut b) = (Faults::default(), Faults::default());
        a.count(1, "closed".to_owned());
        a.count(1, "closed".to_owned());
        b.count(2, "closed".to_owned());
        b.count(2, "refused".to_owned());
        a.add(b);
        assert_eq!((a.total(), a.by_frequency()), (3, vec![("closed", 2), ("refused", 1)]));
        let json = serde_json::to_value(&a).expect("it is JSON");
        assert_eq!(json["closed"], serde_json::json!({ "users": 2, "times": 3 }));
        assert_eq!((a.split_off("clo").total(), a.total()), (2, 1));
    }

    #[test]
    fn numbers_in_a_servers_words_make_no_classes() {
        let classes: HashSet<_> =
            (0..500).map(|ms| without_numbers(&format!("going away; reconnect after {ms} ms"))).collect();
        assert_eq!(classes.into_iter().collect::<Vec<_>>(), ["going away; reconnect after N ms"]);
    }

    #[test]
    fn a_server_that_invents_classes_does_not_fill_the_report() {
        let mut faults = Faults::default();
        (0..500).for_each(|user| faults.count(user, format!("class {user}")));
        assert_eq!((faults.0.len(), faults.total()), (CLASSES_MAX + 1, 500));
    }
}
