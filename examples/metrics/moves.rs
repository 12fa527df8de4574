//! What moves the streams.

use std::time::Duration;

use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{Control, MigrateError, StreamKey};
use tokio::sync::watch;

/// Moves a stream from one connection to the other and back, until it is to rest.
pub async fn to_and_fro(
    mut control: Control,
    key: StreamKey,
    connections: [ConnectionKey; 2],
    pause: Duration,
    mut rest: watch::Receiver<bool>,
) -> Result<(), MigrateError> {
    for connection in connections.into_iter().cycle() {
        match control.migrate(key, connection).await {
            // It has begun on one of them.
            Ok(()) | Err(MigrateError::AlreadyThere(_)) => {}
            // It goes on where it is, and the metrics tell why.
            Err(MigrateError::Failed(_)) => {}
            Err(error) => return Err(error),
        }
        let stay = tokio::time::timeout(pause, rest.wait_for(|rest| *rest));
        if stay.await.is_ok() {
            break;
        }
    }
    Ok(())
}
