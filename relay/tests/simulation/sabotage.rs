//! Faults put into the harness on purpose, to prove that the checks would find them in the relay.

/// One kind of broken behaviour, done now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A shard hears that its append is durable before it is.
    AckBeforeStore,
    /// A `Deliver` between two shards vanishes.
    LoseDeliver,
    /// Two records of a `Deliver` change places.
    SwapRecords,
    /// A reply between two shards vanishes.
    LoseReply,
    /// A `Leave` vanishes, so that its room is never forgotten.
    LoseLeave,
    /// A member that continues in shared frames does so one message too late.
    WrongBoundary,
    /// The private piece before shared frames lacks its last message.
    ShortPiece,
    /// Bytes are sent twice.
    SendTwice,
    /// Bytes count as sent and are not.
    LoseSend,
    /// One bit changes on its way to the client.
    FlipBit,
    /// A room that is loaded does not know its idempotency keys.
    ForgetKeys,
    /// A room that is loaded knows its keys and not the bodies they were used for.
    ForgetBodies,
    /// After a restart, ids begin again at what the clock says.
    ForgetIds,
    /// A room that is loaded does not know the id of its last message.
    ForgetLastId,
    /// A ring goes on to receive though it was told not to.
    IgnorePause,
    /// Storage says of the first message it is asked for that it has expired.
    ForgetOld,
    /// Two publishes of one connection in one room change places on their way to the owner.
    Overtake,
    /// Each shard has a budget of its own.
    BudgetsApart,
}

impl Sabotage {
    /// The invariant that does not hold any more; others may notice first.
    pub fn breaks(self) -> &'static str {
        match self {
            Self::AckBeforeStore => "invariant 1,",
            // The store refuses ids that do not rise, so that the room's append is tried for ever.
            Self::LoseDeliver | Self::ForgetLastId => "invariant 7",
            Self::SwapRecords | Self::ForgetIds => "invariant 3",
            Self::LoseReply => "invariant 8",
            Self::LoseLeave => "invariant 10",
            Self::WrongBoundary | Self::ShortPiece | Self::SendTwice | Self::LoseSend => "invariant 5",
            Self::FlipBit => "invariant 6",
            Self::ForgetKeys => "invariant 4",
            Self::ForgetBodies => "invariant 13",
            Self::ForgetOld => "invariant 11",
            Self::Overtake => "invariant 12",
            Self::IgnorePause | Self::BudgetsApart => "invariant 9",
        }
    }

    pub const ALL: [Self; 18] = [
        Self::AckBeforeStore,
        Self::LoseDeliver,
        Self::SwapRecords,
        Self::LoseReply,
        Self::LoseLeave,
        Self::WrongBoundary,
        Self::ShortPiece,
        Self::SendTwice,
        Self::LoseSend,
        Self::FlipBit,
        Self::ForgetKeys,
        Self::ForgetBodies,
        Self::ForgetIds,
        Self::ForgetLastId,
        Self::ForgetOld,
        Self::Overtake,
        Self::IgnorePause,
        Self::BudgetsApart,
    ];
}
