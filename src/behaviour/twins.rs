//! Two behaviours of this crate in one swarm.

use std::{cell::RefCell, sync::Arc};

use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionDenied, ConnectionId, StreamProtocol};

use super::Behaviour;

/// Two behaviours of this crate in one swarm answer to the same name. The swarm would give the remote's
/// streams to one of them, whichever they are for; so all connections are denied with this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "two behaviours of libp2p-stream-migration in one swarm answer to {0}: \
     give each a name of its own (Config::with_protocol_name), or use one of them"
)]
pub struct NameInUse(pub StreamProtocol);

/// The behaviour that was last asked for a handler in this thread.
struct Asked {
    connection: ConnectionId,
    local: PeerId,
    /// The names that it answers to: its own list, which no two share.
    names: Arc<[StreamProtocol]>,
}

thread_local! {
    /// A swarm asks its behaviours for a connection's handlers one after the other, and connections' IDs
    /// are those of the process.
    static ASKED: RefCell<Option<Asked>> = const { RefCell::new(None) };
}

impl Behaviour {
    /// Refuses a connection for which a behaviour of the same name has a handler already.
    pub(super) fn refuse_twin(&self, connection: ConnectionId) -> Result<(), ConnectionDenied> {
        let names = self.acceptors.prefixes();
        let asked = Asked {
            connection,
            local: self.hub.local_peer(),
            names: names.clone(),
        };
        let before = ASKED.replace(Some(asked));
        let taken = before.and_then(|before| {
            let same = before.connection == connection && before.local == self.hub.local_peer();
            let other = same && !Arc::ptr_eq(&before.names, names);
            let taken = names.iter().find(|name| before.names.contains(name));
            taken.filter(|_| other).cloned()
        });
        match taken {
            Some(name) => {
                let error = NameInUse(name);
                tracing::error!(%error);
                Err(ConnectionDenied::new(error))
            }
            None => Ok(()),
        }
    }
}
