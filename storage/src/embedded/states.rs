//! The states of the logs that were appended to lately, so that an append need not look them up.

use std::collections::HashMap;
use std::sync::Arc;

use crate::LogState;

/// At most so many logs: two generations, the older one forgotten whenever the younger is full.
#[derive(Debug)]
pub struct States {
    young: HashMap<Arc<str>, LogState>,
    old: HashMap<Arc<str>, LogState>,
    generation_max: usize,
}

impl States {
    /// Room for about `logs_max` logs.
    pub fn new(logs_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation_max: (logs_max / 2).max(1) }
    }

    pub fn get(&self, room: &str) -> Option<LogState> {
        self.young.get(room).or_else(|| self.old.get(room)).copied()
    }

    pub fn set(&mut self, room: &Arc<str>, state: LogState) {
        if let Some(known) = self.young.get_mut(room) {
            *known = state;
            return;
        }
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(room.clone(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_states_are_kept_and_their_number_is_bounded() {
        let mut states = States::new(10);
        let state = |last_seq| LogState { epoch: 1, last_seq, last_id: 0 };
        for seq in 0..100 {
            states.set(&seq.to_string().into(), state(seq));
            states.set(&"always".into(), state(seq));
            assert_eq!(states.get("always"), Some(state(seq)));
            assert!(states.young.len() + states.old.len() <= 10);
        }
        assert_eq!(states.get("99"), Some(state(99)));
        assert_eq!(states.get("0"), None);
    }
}
