//! Slots: what room names hash to, the unit that moves between owners.

/// How many there are. Never changes.
pub const SLOTS: u32 = 4096;

/// The slot of a room: CRC-32 (IEEE) of its name, so that it is the same in every version, process and language.
pub fn room_slot(room: &str) -> u32 {
    crc32fast::hash(room.as_bytes()) % SLOTS
}
