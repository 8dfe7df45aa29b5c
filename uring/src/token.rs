//! What an operation carries through the kernel as its user data.

use crate::event::Socket;

/// The operations of a ring. Each is pending at most once per slot (or listener), so a token names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Receive,
    Send,
    Writable,
    Connect,
    Close,
    /// On a listener: `slot` is its index.
    Accept,
    /// The pause after a failed accept: `slot` is the listener's index.
    AcceptPause,
}

/// bit 56: cancels that operation; bits 48..56: operation; 32..48: slot; 0..32: generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub op: Op,
    pub cancels: bool,
    pub socket: Socket,
}

impl Token {
    pub fn of(op: Op, socket: Socket) -> Self {
        Self { op, cancels: false, socket }
    }

    pub fn encode(self) -> u64 {
        let Socket { slot, generation } = self.socket;
        u64::from(self.cancels) << 56 | (self.op as u64) << 48 | u64::from(slot) << 32 | u64::from(generation)
    }

    pub fn decode(user_data: u64) -> Self {
        let op = match (user_data >> 48) as u8 {
            0 => Op::Receive,
            1 => Op::Send,
            2 => Op::Writable,
            3 => Op::Connect,
            4 => Op::Close,
            5 => Op::Accept,
            6 => Op::AcceptPause,
            other => unreachable!("the kernel gives user data back as it was, but its operation is {other}"),
        };
        let socket = Socket { slot: (user_data >> 32) as u16, generation: user_data as u32 };
        Self { op, cancels: user_data >> 56 != 0, socket }
    }
}

#[cfg(test)]
mod tests {
    use super::{Op, Socket, Token};

    #[test]
    fn a_token_comes_back_as_it_was() {
        let ops = [Op::Receive, Op::Send, Op::Writable, Op::Connect, Op::Close, Op::Accept, Op::AcceptPause];
        for op in ops {
            for (slot, generation) in [(0, 0), (u16::MAX, 0), (0, u32::MAX), (12_345, 0x8765_4321)] {
                for cancels in [false, true] {
                    let token = Token { op, cancels, socket: Socket { slot, generation } };
                    assert_eq!(Token::decode(token.encode()), token);
                }
            }
        }
    }
}
