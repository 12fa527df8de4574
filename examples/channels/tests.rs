//! The nodes and channels, as the example has them, and remotes that do not keep to what was
//! agreed.

use futures::{SinkExt, StreamExt};

use crate::{
    channel::{Channel, ChannelError, Spec},
    codec::CodecError,
    load::{self, Plan, SLOW},
    messages::Packet,
    node::{CHANNELS, Node},
};

async fn connected() -> (Node, Node) {
    let [dialer, listener] = [CHANNELS, CHANNELS].map(|specs| Node::start(specs).unwrap());
    let address = listener.listen("/ip4/127.0.0.1/tcp/0").await.unwrap();
    dialer.dial(listener.id, address).await.unwrap();
    (dialer, listener)
}

async fn open(
    dialer: &Node,
    listener: &mut Node,
    spec: Spec,
) -> [Result<Channel, ChannelError>; 2] {
    let mut control = dialer.control.clone();
    let opening = Channel::open(&mut control, listener.id, spec);
    let (here, there) = futures::future::join(opening, listener.accept(&[0x38])).await;
    [here, there]
}

fn packet(length: u32) -> Packet {
    Packet {
        sequence: 1,
        data: vec![1; length as usize],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_the_slow_reader_delays_nobody() {
    let plan = Plan {
        messages: 120,
        time: Default::default(),
    };
    let report = load::run(plan).await.unwrap();
    assert_eq!(report.faults(), [""; 0]);
    assert_eq!(report.flows.len(), 8);
    // It had stopped with its sender in the middle, and all the others had come to their end.
    assert_eq!(report.slow_then, plan.messages / 4);
    let slow = CHANNELS.iter().find(|spec| spec.id == SLOW).unwrap().name;
    let (slow, others): (Vec<_>, Vec<_>) =
        report.flows.iter().partition(|flow| flow.channel == slow);
    let stopped = slow.iter().find(|flow| flow.way == "→").unwrap();
    assert!(stopped.sent > report.slow_then);
    assert_eq!(others.len(), 6);
    assert!(others.iter().all(|flow| flow.sent >= plan.messages));
    let sent: u64 = others.iter().map(|flow| flow.sent).sum();
    assert_eq!(report.others_then, sent);
}

/// An error for the sender, and nothing has happened; a sender that does not care ends its own
/// channel and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_refused_on_both_sides() {
    let (dialer, mut listener) = connected().await;
    let mut channels = Vec::new();
    for spec in [CHANNELS[0], CHANNELS[1]] {
        let [here, there] = open(&dialer, &mut listener, spec).await;
        channels.push((here.unwrap(), there.unwrap()));
    }
    let max = channels[0].0.remote_max;
    let error = channels[0].0.framed.send(packet(max)).await.unwrap_err();
    assert!(
        matches!(error, CodecError::TooLargeToSend { .. }),
        "{error}"
    );
    channels[0].0.framed.send(packet(1)).await.unwrap();
    let (here, there) = &mut channels[0];
    assert_eq!(there.framed.next().await.unwrap().unwrap(), packet(1));

    here.framed.codec_mut().max_out = usize::MAX;
    here.framed.send(packet(max)).await.unwrap();
    let error = there.framed.next().await.unwrap().unwrap_err();
    assert!(matches!(error, CodecError::TooLarge { .. }), "{error}");

    channels.remove(0);
    let (here, there) = &mut channels[0];
    here.framed.send(packet(2)).await.unwrap();
    assert_eq!(there.framed.next().await.unwrap().unwrap(), packet(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_unknown_or_taken_is_refused_with_its_reason() {
    let (dialer, mut listener) = connected().await;
    for (id, reason) in [(0x99, "no such channel"), (0x38, "open already")] {
        let spec = Spec { id, ..CHANNELS[0] };
        let [here, there] = open(&dialer, &mut listener, spec).await;
        let (here, there) = (here.unwrap_err(), there.unwrap_err());
        assert!(matches!(here, ChannelError::Refused { .. }), "{here}");
        assert!(matches!(there, ChannelError::Unwanted { .. }), "{there}");
        for said in [here.to_string(), there.to_string()] {
            assert!(
                said.contains(reason) && said.contains(&format!("{id:#x}")),
                "{said}"
            );
        }
    }
    let mute = Spec {
        max_message: 0,
        ..CHANNELS[0]
    };
    let [_, there] = open(&dialer, &mut listener, mute).await;
    assert!(matches!(there, Err(ChannelError::Incomplete)));
}
