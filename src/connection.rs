//! The two names of a connection.

use std::fmt::{self, Write};

use libp2p_swarm::ConnectionId;

use crate::{ConnectionInfo, key::ConnectionKey};

/// A connection of the swarm, by either of its names: the swarm's [`ConnectionId`], or the [`ConnectionKey`]
/// of views, policies and events. Both show the same number.
pub trait ConnectionName {
    /// The swarm's name.
    fn id(&self) -> ConnectionId;

    /// The connection's name in this crate.
    fn key(&self) -> ConnectionKey;
}

impl ConnectionName for ConnectionKey {
    fn id(&self) -> ConnectionId {
        // The number was a `usize`.
        ConnectionId::new_unchecked(self.number() as usize)
    }

    fn key(&self) -> ConnectionKey {
        *self
    }
}

impl ConnectionName for ConnectionId {
    fn id(&self) -> ConnectionId {
        *self
    }

    fn key(&self) -> ConnectionKey {
        let mut number = Number(0);
        // Nothing else tells what number an ID has.
        let _ = write!(number, "{self}");
        ConnectionKey::new(number.0)
    }
}

impl ConnectionName for ConnectionInfo {
    fn id(&self) -> ConnectionId {
        self.key.id()
    }

    fn key(&self) -> ConnectionKey {
        self.key
    }
}

impl<T: ConnectionName> ConnectionName for &T {
    fn id(&self) -> ConnectionId {
        (**self).id()
    }

    fn key(&self) -> ConnectionKey {
        (**self).key()
    }
}

/// Reads the number that is written into it.
struct Number(u64);

impl Write for Number {
    fn write_str(&mut self, digits: &str) -> fmt::Result {
        for digit in digits.bytes() {
            let digit = u64::from(digit.wrapping_sub(b'0'));
            self.0 = self.0.wrapping_mul(10).wrapping_add(digit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_stand_for_each_other() {
        for number in [0, 1, 9, 10, 4_294_967_295, usize::MAX] {
            let id = ConnectionId::new_unchecked(number);
            assert_eq!(id.key(), ConnectionKey::new(number as u64));
            assert_eq!(id.key().id(), id);
            assert_eq!(id.key().to_string(), id.to_string());
        }
    }
}
