//! What an event of the kernel is about, as the number that the kernel gives back with it.
//!
//! **Invariants.** A token reads back as what it was made of, and leaves the upper byte free.
//! **Not here.** Whether the one it names is still there.

use crate::key::{DeviceKey, PortKey, SessionKey};

const KIND_SHIFT: u32 = 32;
const API: u64 = 0;
const PORT: u64 = 1;
const SESSION: u64 = 2;

/// Whom an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// The listener for drivers.
    Api,
    /// A port's socket.
    Port(PortKey),
    /// A driver's socket.
    Session(SessionKey),
    /// A device's socket.
    Device(DeviceKey),
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        let (kind, key) = match token {
            Token::Api => (API, 0),
            Token::Port(PortKey(key)) => (PORT, key),
            Token::Session(SessionKey(key)) => (SESSION, key),
            Token::Device(DeviceKey(key)) => (SESSION + 1, key),
        };
        kind << KIND_SHIFT | u64::from(key)
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Token {
        let key = number as u32;
        match number >> KIND_SHIFT {
            API => Token::Api,
            PORT => Token::Port(PortKey(key)),
            SESSION => Token::Session(SessionKey(key)),
            _ => Token::Device(DeviceKey(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back() {
        for key in [0, 7, u32::MAX] {
            for token in
                [Token::Api, Token::Port(PortKey(key)), Token::Session(SessionKey(key)), Token::Device(DeviceKey(key))]
            {
                assert_eq!(Token::from(u64::from(token)), token);
                assert_eq!(u64::from(token) >> 56, 0);
            }
        }
    }
}
