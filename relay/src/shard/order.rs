//! A connection's commands on rooms: each goes on when those before it on the same room were answered.
//!
//! Whatever else a command may have to wait for belongs in front of [`Shard::in_order`], where all of them pass.

use std::sync::Arc;

use protocol::{Dialect, ErrorCode, Event};

use super::Shard;
use super::command::{BUSY_RETRY_MS, Refusal};
use crate::budget::Use;
use crate::ids::{Origin, Principal, Rights, SessionId};
use crate::mesh::{Ask, Asked};
use crate::pipeline::Step;
use crate::session::{Session, Speaks};

impl Shard {
    /// Carries out a command on a room, now or behind those of the room that are under way.
    pub(super) fn in_order(
        &mut self,
        session: &mut Session,
        dialect: Dialect,
        (tag, room): (u32, Arc<str>),
        step: Step,
    ) -> Result<(), Refusal> {
        if session.is_at_its_share(&self.setup.limits) {
            return Err((ErrorCode::Busy, "too many commands under way on this connection", BUSY_RETRY_MS));
        }
        let step = match &mut session.pipeline {
            Some(pipeline) => pipeline.admit(&room, tag, step),
            None => Some(step),
        };
        step.map_or(Ok(()), |step| self.carry_out(session, dialect, (tag, room), step))
    }

    /// Carries out a command as far as this shard can: the rest is the room's owner's.
    fn carry_out(
        &mut self,
        session: &mut Session,
        dialect: Dialect,
        (tag, room): (u32, Arc<str>),
        step: Step,
    ) -> Result<(), Refusal> {
        let Step::Ask(mut ask) = step else { return self.carry_out_leave(session, dialect, tag, &room) };
        let owner = self.owner(&room)?;
        let Some(user) = session.user.clone() else {
            return Err((ErrorCode::NotConnected, "connect first", 0));
        };
        match &mut ask {
            Ask::Publish { body, .. } => self.check_memory(Use::Work, body.len())?,
            Ask::History { .. } => self.check_memory(Use::Answer, 0)?,
            Ask::Join { start, shared } => *shared = self.begin_join(session, &room, *start)?,
        }
        let principal = Principal { user, address: session.address, rights: Rights::ALL };
        session.pipeline.get_or_insert_default().asked(&room, ask.is_publish());
        self.ask(owner, Asked { origin: Origin::Session(session.id, tag), principal, room, ask });
        Ok(())
    }

    /// A connection leaves a room, which its own core knows of.
    fn carry_out_leave(
        &mut self,
        session: &mut Session,
        dialect: Dialect,
        tag: u32,
        room: &str,
    ) -> Result<(), Refusal> {
        let was_in_it = self.leave(session, room);
        if !was_in_it && !dialect.leaves_twice() {
            return Err((ErrorCode::NotJoined, "not a member of this room", 0));
        }
        self.say(session, dialect, tag, &Event::Left { room });
        if !was_in_it {
            self.chatter(session);
        }
        Ok(())
    }

    /// The owner answered a command of this connection: what waited behind it goes on.
    pub(super) fn go_on(&mut self, id: SessionId, room: &Arc<str>) {
        let Some(mut session) = self.sessions.take(id) else { return };
        if let Some(pipeline) = &mut session.pipeline {
            pipeline.answered(room);
        }
        while let Some((tag, step)) = session.pipeline.as_mut().and_then(|pipeline| pipeline.next(room))
            && let Speaks::Dialect(dialect) = session.speaks
        {
            let outcome = self.carry_out(&mut session, dialect, (tag, room.clone()), step);
            self.refuse_at_once(&mut session, dialect, tag, outcome);
            self.mark(&mut session);
        }
        if session.pipeline.as_ref().is_some_and(|pipeline| pipeline.is_empty()) {
            session.pipeline = None;
        }
        self.regulate(&mut session);
        self.sessions.put(session);
    }

    /// Tells a client that its command could not be carried out.
    pub(super) fn refuse_at_once(
        &mut self,
        session: &mut Session,
        dialect: Dialect,
        tag: u32,
        outcome: Result<(), Refusal>,
    ) {
        let Err((code, message, retry_after_ms)) = outcome else { return };
        self.stats.refuse(code);
        if tag != 0 && session.is_open() {
            self.say(session, dialect, tag, &Event::Error { code, message, retry_after_ms });
        }
    }
}
