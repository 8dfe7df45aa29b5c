//! What is known of the logs that were used lately, so that an append need not look it up.

use std::collections::HashMap;
use std::sync::Arc;

/// At most so many logs: two generations, the older one forgotten whenever the younger is full.
#[derive(Debug)]
pub struct States<T> {
    young: HashMap<Arc<str>, T>,
    old: HashMap<Arc<str>, T>,
    generation_max: usize,
}

impl<T: Copy> States<T> {
    /// Room for about `logs_max` logs.
    pub fn new(logs_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation_max: (logs_max / 2).max(1) }
    }

    pub fn get(&self, room: &str) -> Option<T> {
        self.young.get(room).or_else(|| self.old.get(room)).copied()
    }

    pub fn set(&mut self, room: &Arc<str>, state: T) {
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
        for seq in 0..100 {
            states.set(&seq.to_string().into(), seq);
            states.set(&"always".into(), seq);
            assert_eq!(states.get("always"), Some(seq));
            assert!(states.young.len() + states.old.len() <= 10);
        }
        assert_eq!(states.get("99"), Some(99));
        assert_eq!(states.get("0"), None);
    }
}
