//! The table of connections: 24 bytes each, allocated once, touched only as far as it was ever used.

use crate::event::Socket;
use crate::segment::Segment;
use crate::token::Op;

const NO_SLOT: u16 = u16::MAX;

const PENDING: u16 = Op::Receive.bit() | Op::Send.bit() | Op::Writable.bit() | Op::Connect.bit() | Op::Close.bit();
const TAKEN: u16 = 1 << 8;
const PAUSED: u16 = 1 << 9;
const ENDED: u16 = 1 << 10;
const CLOSING: u16 = 1 << 11;

impl Op {
    /// Its bit in a slot's state; for the operations on sockets only.
    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// One connection: what is pending in the kernel and what the caller wants.
pub struct Slot {
    /// The bytes of the pending send, kept alive for the kernel.
    pub sending: Option<Segment>,
    generation: u32,
    /// The next free slot, while this one is free.
    next_free: u16,
    state: u16,
}

const _: () = assert!(size_of::<Slot>() == 24);

impl Slot {
    pub fn start(&mut self, op: Op) {
        assert!(!self.is_pending(op), "{op:?} is pending on this socket already");
        self.state |= op.bit();
    }

    pub fn finish(&mut self, op: Op) {
        debug_assert!(self.is_pending(op), "{op:?} completed, but was not pending");
        self.state &= !op.bit();
    }

    pub fn is_pending(&self, op: Op) -> bool {
        self.state & op.bit() != 0
    }

    pub fn is_idle(&self) -> bool {
        self.state & PENDING == 0
    }

    /// Whether a multishot receive should be armed now.
    pub fn wants_receive(&self) -> bool {
        self.state & (PAUSED | ENDED | CLOSING | Op::Receive.bit() | Op::Connect.bit()) == 0
    }

    pub fn is_paused(&self) -> bool {
        self.state & PAUSED != 0
    }

    pub fn set_paused(&mut self, paused: bool) {
        if paused {
            self.state |= PAUSED;
        } else {
            self.state &= !PAUSED;
        }
    }

    pub fn has_ended(&self) -> bool {
        self.state & ENDED != 0
    }

    pub fn set_ended(&mut self) {
        self.state |= ENDED;
    }

    pub fn is_closing(&self) -> bool {
        self.state & CLOSING != 0
    }

    pub fn set_closing(&mut self) {
        self.state |= CLOSING;
    }
}

/// All slots of a ring and the list of free ones.
pub struct Slots {
    /// Grows up to `limit` inside its first allocation, so that slots never used cost no memory.
    slots: Vec<Slot>,
    limit: u16,
    first_free: u16,
    taken: u16,
}

impl Slots {
    pub fn new(limit: u16) -> Self {
        Self { slots: Vec::with_capacity(limit.into()), limit, first_free: NO_SLOT, taken: 0 }
    }

    pub fn free(&self) -> usize {
        usize::from(self.limit - self.taken)
    }

    pub fn take(&mut self) -> Option<Socket> {
        if self.taken == self.limit {
            return None;
        }
        self.taken += 1;
        let slot = self.first_free;
        if slot == NO_SLOT {
            self.slots.push(Slot { sending: None, generation: 0, next_free: NO_SLOT, state: TAKEN });
            return Some(Socket { slot: self.slots.len() as u16 - 1, generation: 0 });
        }
        let free = &mut self.slots[usize::from(slot)];
        self.first_free = free.next_free;
        free.state = TAKEN;
        Some(Socket { slot, generation: free.generation })
    }

    /// Frees the slot; the socket's generation is over.
    pub fn release(&mut self, socket: Socket) {
        let next_free = self.first_free;
        let slot = self.get(socket).expect("only a taken slot is released");
        debug_assert!(slot.is_idle(), "a slot is released after all its operations ended");
        *slot = Slot { sending: None, generation: socket.generation.wrapping_add(1), next_free, state: 0 };
        self.first_free = socket.slot;
        self.taken -= 1;
    }

    /// The slot, as long as this generation of it is taken.
    pub fn get(&mut self, socket: Socket) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(socket.slot))?;
        (slot.generation == socket.generation && slot.state & TAKEN != 0).then_some(slot)
    }

    /// The slot, unless it is closing or closed.
    pub fn open(&mut self, socket: Socket) -> Option<&mut Slot> {
        self.get(socket).filter(|slot| !slot.is_closing())
    }

    /// All sockets that have a slot.
    pub fn taken(&self) -> impl Iterator<Item = Socket> {
        self.slots
            .iter()
            .zip(0..)
            .filter(|(slot, _)| slot.state & TAKEN != 0)
            .map(|(slot, index)| Socket { slot: index, generation: slot.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn a_slot_taken_again_has_another_generation_and_the_old_one_finds_nothing() {
        let mut slots = Slots::new(2);
        let first = slots.take().unwrap();
        let second = slots.take().unwrap();
        assert_eq!((slots.free(), slots.take()), (0, None));
        slots.release(first);
        assert!(slots.get(first).is_none());
        assert_eq!(slots.taken().collect::<Vec<_>>(), [second]);
        let third = slots.take().unwrap();
        assert_eq!(third.slot, first.slot);
        assert_ne!(third.generation, first.generation);
        assert!(slots.get(first).is_none() && slots.get(third).is_some());
    }

    #[test]
    fn free_slots_are_counted_and_each_is_given_once() {
        let mut slots = Slots::new(100);
        let mut taken: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(taken.len(), 100);
        for socket in taken.drain(..).step_by(2) {
            slots.release(socket);
        }
        assert_eq!(slots.free(), 50);
        let again: std::collections::HashSet<_> = std::iter::from_fn(|| slots.take()).map(|s| s.slot).collect();
        assert_eq!((again.len(), slots.free()), (50, 0));
    }
}
