//! What the fake relay can do wrong.

use std::time::Duration;

/// What the server does wrong. "Nth" counts publishes from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// One delivery of so many never leaves.
    DropOneDeliveryIn(u64),
    /// One member gets the nth message twice.
    DuplicateDelivery(u64),
    /// One member gets the nth message after the next one.
    SwapDeliveries(u64),
    /// Everybody gets the nth message with another body.
    AlterBody(u64),
    /// The nth message is acked and thrown away.
    AckWithoutStoring(u64),
    /// The nth message is stored, and delivered, twice.
    StoreTwice(u64),
    /// The publisher of the nth message is thrown out after its ack.
    ClosePublisher(u64),
    /// Everything stands still for so long at the nth message.
    Freeze(u64, Duration),
    /// This user does not get the nth message.
    SkipFor(u64, u32),
    /// This user does not get five messages from the nth on and is told so.
    GapFor(u64, u32),
    /// The same, and the history lacks the second one of them.
    LostGapFor(u64, u32),
    /// One bit of the first compressed frame from the nth message on, where it can be a letter's, is changed for this
    /// user.
    AlterByte(u64, u32),
    /// The nth message's compressed frame ends in a wrong byte for this user.
    CorruptByte(u64, u32),
    /// This user is closed as a slow consumer at the nth message.
    CloseAsSlow(u64, u32),
    /// The first user that comes back and missed something does not get the first message it missed.
    ResumeWithout,
    /// It gets the first message that it missed twice.
    ResumeTwice,
    /// It is told that it was not recovered.
    NotRecovered,
    /// At the nth message everybody is told to come back after a while, each after another one, and closed.
    GoAway(u64),
    /// At the nth message every connection ends without a word.
    CutAll(u64),
    /// At the nth message this user's connection ends without a word.
    CutOne(u64, u32),
    /// At the nth message every connection ends, and no other one is taken from then on.
    Vanish(u64),
    /// Each message is refused once because its user publishes too fast.
    RateLimited,
    /// Each message is refused once because the server is busy.
    Busy,
}
