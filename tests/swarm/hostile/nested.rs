//! The proof of concept in Go labels a new leg first, then negotiates the prefix once more, and then says
//! `Migrate`. One level of that is understood, and nothing else.

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p_stream_migration::{PROTOCOL_NAME, Stream, Violation};
use multistream_select::{Negotiated, Version};

use super::*;

const ITS_NAME: StreamProtocol = StreamProtocol::new("/libp2p/stream-migration/");

/// A new leg as the proof of concept opens it, up to where its `Migrate` goes.
async fn nested(siege: &mut Siege, id: u64, name: StreamProtocol) -> Negotiated<Stream> {
    let (peer, connection) = (siege.scene.net.listener.id, siege.scene.new.here);
    let control = &mut siege.scene.net.dialer.control;
    let opened = control.open_stream_on(peer, connection, name.clone());
    let mut leg = within("the prefix", opened).await.unwrap();
    say(&mut leg, &label(id)).await;
    let offer = multistream_select::dialer_select_proto(leg, [name], Version::V1);
    within("the nested prefix", offer).await.unwrap().1
}

#[tokio::test]
async fn a_prefix_inside_a_label() {
    for (name, id) in [(ITS_NAME, 2), (PROTOCOL_NAME, 2), (ITS_NAME, 4)] {
        let mut siege = Siege::new().await;
        let (mut old, mut ours) = siege.scene.labelled(0).await;
        write(&mut old, 3, 0, 1000).await;
        let mut new = nested(&mut siege, 2, name).await;
        // With the label's ID, or with another.
        say(&mut new, &migrate(id, 0)).await;
        hear(&mut new, ACCEPT).await;
        old.close().await.unwrap();
        write(&mut new, 3, 1000, 2000).await;
        read(&mut ours, 3, 0, 2000).await;
        siege.completed(ours.key(), 1).await;
        assert_eq!(ours.id().unwrap().0, id);
        write(&mut ours, 4, 0, 1000).await;
        read(&mut new, 4, 0, 1000).await;
        siege.nothing_reported();
        siege.unharmed().await;
    }
}

/// Denied and dropped as any other; and the label's stream is gone.
#[tokio::test]
async fn of_streams_that_are_over() {
    let mut siege = Siege::new().await;
    let mut new = nested(&mut siege, 2, ITS_NAME).await;
    // Of the stream that it seemed to be.
    say(&mut new, &migrate(4, 2)).await;
    hear(&mut new, &[4, 0x1a, 2, 8, 1]).await;
    let (mut old, ours) = siege.scene.labelled(2).await;
    let key = ours.key();
    drop(ours);
    siege.ended(key).await.unwrap_err();
    let mut new = nested(&mut siege, 6, ITS_NAME).await;
    say(&mut new, &migrate(6, 2)).await;
    is_dropped(&mut new).await;
    is_dropped(&mut old).await;
    siege.unharmed().await;
}

/// Another label, no message at all, a message cut short.
#[tokio::test]
async fn anything_else() {
    let mut siege = Siege::new().await;
    let messages = [
        label(4),
        label(2),
        vec![3, 0xff, 0xff, 0xff],
        vec![0x80, 0x80, 4],
    ];
    for (number, message) in messages.iter().enumerate() {
        let mut leg = nested(&mut siege, 2, ITS_NAME).await;
        say(&mut leg, message).await;
        is_dropped(&mut leg).await;
        siege.violations(Violation::Message, number + 1).await;
    }
    let mut leg = nested(&mut siege, 2, ITS_NAME).await;
    say(&mut leg, &migrate(2, 0)[..2]).await;
    leg.close().await.unwrap();
    is_dropped(&mut leg).await;
    // One level: what follows is bytes of a message, not another negotiation.
    let leg = nested(&mut siege, 2, ITS_NAME).await;
    let offer = multistream_select::dialer_select_proto(leg, [ITS_NAME], Version::V1);
    assert!(within("the refusal", offer).await.is_err());
    let (mut raw, mut ours) = siege.scene.labelled(2).await;
    still_works(&mut raw, &mut ours).await;
    siege.unharmed().await;
}

/// A `Migrate` for the stream that the label seemed to begin is held while the prefix is negotiated:
/// then it is that stream, and no leg.
#[tokio::test]
async fn migrate_of_a_leg_to_be() {
    let mut siege = Siege::new().await;
    let leg = siege.scene.first(siege.scene.new.here, &label(2)).await;
    let mut new = siege
        .scene
        .first(siege.scene.old.here, &migrate(6, 2))
        .await;
    hear(&mut new, ACCEPT).await;
    let offer = multistream_select::dialer_select_proto(leg, [ITS_NAME], Version::V1);
    // Whether it hears of the agreement or of the end is a matter of time.
    let _ = within("an answer", offer).await;
    let mut rest = Vec::new();
    let _ = within("the end", new.read_to_end(&mut rest)).await;
    siege.unharmed().await;
}
