//! High-water marks: what was acked, noted beside the messages, so that their loss would be noticed.

use std::sync::Arc;

use super::engine::{Engine, Mark};
use super::link::{Deadline, Wired};
use super::slot_of;
use crate::StoreError;

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
            .until(deadline, async |Wired { session, statements }| {
                self.lease.hold(deadline).await?;
                let values =
                    (self.lease.timestamp(), mark.seq, mark.id, mark.expires_ms, slot_of(room) as i32, &**room);
                session.execute_unpaged(&statements.mark, values).await?;
                Ok(())
            })
            .await
    }
}
