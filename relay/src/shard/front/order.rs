//! A connection's commands on rooms: each goes on when those before it on the same room were answered.
//!
//! Whatever else a command may have to wait for belongs in front of [`Front::in_order`], where all of them pass.

use std::sync::Arc;

use protocol::{Dialect, ErrorCode, Event};

use super::Front;
use crate::ids::{Origin, Principal, Rights, SessionId};
use crate::mesh::{Ask, Asked, Mesh};
use crate::pipeline::Step;
use crate::session::{Session, Speaks};
use crate::shard::turn::{BUSY_RETRY_MS, Refusal, Turn};

impl Front {
    /// Carries out a command on a room, now or behind those of the room that are under way.
    pub(super) fn in_order(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        dialect: Dialect,
        (tag, room): (u32, Arc<str>),
        step: Step,
    ) -> Result<(), Refusal> {
        if session.is_at_its_share(&turn.setup.limits) {
            return Err((ErrorCode::Busy, "too many commands under way on this connection", BUSY_RETRY_MS));
        }
        let step = match &mut session.pipeline {
            Some(pipeline) => pipeline.admit(&room, tag, step),
            None => Some(step),
        };
        step.map_or(Ok(()), |step| self.carry_out(turn, session, dialect, (tag, room), step))
    }

    /// Carries out a command as far as this shard can: the rest is the room's owner's.
    fn carry_out(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        dialect: Dialect,
        (tag, room): (u32, Arc<str>),
        step: Step,
    ) -> Result<(), Refusal> {
        let Step::Ask(mut ask) = step else { return self.carry_out_leave(turn, session, dialect, tag, &room) };
        let owner = turn.owner(&room)?;
        let Some(user) = session.user.clone() else {
            return Err((ErrorCode::NotConnected, "connect first", 0));
        };
        if let Some((wanted, bytes)) = ask.needs() {
            turn.check_memory(wanted, bytes)?;
        }
        if let Ask::Join { start, shared } = &mut ask {
            *shared = self.begin_join(turn, session, &room, *start)?;
        }
        let principal = Principal { user, address: session.address, rights: Rights::ALL };
        session.pipeline.get_or_insert_default().asked(&room, ask.is_publish());
        self.unanswered += 1;
        let origin = Origin::Session(session.id, tag);
        turn.post(owner, Mesh::Ask(Asked { origin, principal, room, ask }));
        Ok(())
    }

    /// A connection leaves a room, which its own core knows of.
    fn carry_out_leave(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        dialect: Dialect,
        tag: u32,
        room: &str,
    ) -> Result<(), Refusal> {
        let was_in_it = self.leave(turn, session, room);
        if !was_in_it && !dialect.leaves_twice() {
            return Err((ErrorCode::NotJoined, "not a member of this room", 0));
        }
        self.held.replies.say(session, dialect, tag, &Event::Left { room });
        if !was_in_it {
            self.chatter(turn, session);
        }
        Ok(())
    }

    /// The owner answered a command of this connection: what waited behind it goes on.
    pub(super) fn go_on(&mut self, turn: &mut Turn, id: SessionId, room: &Arc<str>) {
        let Some(mut session) = self.sessions.take(id) else { return };
        if let Some(pipeline) = &mut session.pipeline {
            pipeline.answered(room);
        }
        while let Some((tag, step)) = session.pipeline.as_mut().and_then(|pipeline| pipeline.next(room))
            && let Speaks::Dialect(dialect) = session.speaks
        {
            if let Err(refusal) = self.carry_out(turn, &mut session, dialect, (tag, room.clone()), step) {
                self.held.replies.refuse(turn, &mut session, dialect, (tag, refusal));
            }
            self.fanout.mark(&mut session);
        }
        if session.pipeline.as_ref().is_some_and(|pipeline| pipeline.is_empty()) {
            session.pipeline = None;
        }
        self.held.regulate(turn, &mut session);
        self.sessions.put(session);
    }
}
