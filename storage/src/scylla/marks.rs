//! High-water marks: what was acked, noted beside the messages, so that their loss would be noticed.

use std::sync::Arc;

use super::engine::{Engine, Mark};
use super::link::Deadline;
use crate::{StoreError, room_slot};

/// Marks that are written at once.
const AT_ONCE: usize = 32;

impl Engine {
    /// Writes the marks of all logs that were appended to since the last time. What fails is written the next time.
    pub async fn write_marks(&self, deadline: Deadline) {
        let marks: Vec<_> = self.marks.borrow_mut().drain().collect();
        for some in marks.chunks(AT_ONCE) {
            let outcomes = super::all(some.iter().map(|(room, mark)| self.write_mark(room, *mark, deadline))).await;
            for ((room, mark), outcome) in some.iter().zip(outcomes) {
                if outcome.is_err() {
                    self.marks.borrow_mut().entry(room.clone()).or_insert(*mark);
                }
            }
        }
    }

    async fn write_mark(&self, room: &Arc<str>, mark: Mark, deadline: Deadline) -> Result<(), StoreError> {
        self.link
            .until(deadline, async |wired| {
                self.lease.hold(deadline).await?;
                let values =
                    (self.lease.timestamp(), mark.seq, mark.id, mark.expires_ms, room_slot(room) as i32, &**room);
                wired.run(&wired.statements.mark, values).await
            })
            .await
    }
}
