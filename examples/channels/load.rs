//! Four channels under load both ways, moved from TCP to QUIC while it lasts, one of them with a
//! reader that stops.
//!
//! Nothing is timed. When each direction of each channel has delivered a quarter, QUIC is dialed. A
//! sender goes on until it has sent what it has to, and a quarter of that after its channel has
//! moved; so there is load before, while and after. The slow reader stops at its quarter, and goes
//! on when the three other channels are through, which they cannot be before its sender is stuck:
//! if it delayed them, nothing here would come to an end.
//!
//! What may wait for the slow reader is its own channel: its move is complete when it has read what
//! came the old way, if that is more than is read ahead for it, though what is written goes the new
//! way at once; and an end that is read over QUIC is believed when the write side, which is stuck,
//! has been heard.

use std::{error::Error, pin::pin, sync::Arc, time::Duration};

use asynchronous_codec::Framed;
use futures::{
    FutureExt, SinkExt, StreamExt,
    future::{FusedFuture, try_join, try_join_all},
    stream::{SplitSink, SplitStream},
};
use libp2p_stream_migration::Stream;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{
    channel::{Channel, Spec},
    check::{Check, Pattern},
    codec::{Codec, CodecError},
    messages::Packet,
    node::{CHANNELS, Moved, Node},
};

type Failure = Box<dyn Error + Send + Sync>;

/// The channel whose reader stops, at the listener.
pub const SLOW: u32 = 0x30;

/// A sender that gets no further for so long is stuck. Too short is no fault: the others end
/// earlier.
const STUCK: Duration = Duration::from_millis(200);

/// Beyond what it has to take, all of it takes no longer than this, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(100);

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many messages each direction of each channel carries at least.
    pub messages: u64,
    /// How long they go on at least.
    pub time: Duration,
}

/// One direction of one channel.
#[derive(Debug)]
pub struct Flow {
    pub channel: &'static str,
    pub way: &'static str,
    pub max_message: u32,
    pub sent: u64,
    pub check: Check,
    /// The channel's move, as the sender saw it.
    /// The channel's first move, and how many there were.
    pub moved: Option<(Moved, usize)>,
}

#[derive(Debug)]
pub struct Report {
    pub flows: Vec<Flow>,
    /// Messages that were too large, and were refused before anything of them was sent.
    pub refused: usize,
    /// What the slow channel had delivered, and all others, when the slow reader went on.
    pub slow_then: u64,
    pub others_then: u64,
}

/// What the flows share.
struct Course {
    plan: Plan,
    /// The slow reader may go on.
    open: watch::Sender<bool>,
    /// The slow channel's sender has got stuck.
    stuck: watch::Sender<bool>,
}

impl Course {
    fn quarter(&self) -> u64 {
        self.plan.messages / 4
    }
}

type Outgoing = SplitSink<Framed<Stream, Codec<Packet>>, Packet>;
type Incoming = SplitStream<Framed<Stream, Codec<Packet>>>;

/// A flow whose two ends are running.
struct Started {
    spec: Spec,
    way: &'static str,
    max_message: u32,
    received: watch::Receiver<u64>,
    sending: JoinHandle<Result<u64, Failure>>,
    receiving: JoinHandle<Result<Check, Failure>>,
}

impl Started {
    fn new(
        course: &Arc<Course>,
        spec: Spec,
        way: &'static str,
        slow: bool,
        max_message: u32,
        (to, from, moved): (
            Outgoing,
            Incoming,
            impl Future<Output = bool> + Send + 'static,
        ),
    ) -> Self {
        let seed = u64::from(spec.id) << 1 | u64::from(way == "→");
        let pattern = Pattern { seed, max_message };
        let (count, received) = watch::channel(0);
        let sending = send(course.clone(), to, pattern, slow, moved);
        let receiving = receive(course.clone(), from, pattern, slow, count);
        Self {
            spec,
            way,
            max_message,
            received,
            sending: tokio::spawn(sending),
            receiving: tokio::spawn(receiving),
        }
    }

    async fn end(self) -> Result<Flow, Failure> {
        let name = self.spec.name;
        let ends = async {
            let sending = async { self.sending.await? };
            let receiving = async { self.receiving.await? };
            try_join(sending, receiving).await
        };
        let ended: Result<_, Failure> = ends.await;
        let (sent, check) = ended.map_err(|error| format!("{name} {}: {error}", self.way))?;
        Ok(Flow {
            channel: name,
            way: self.way,
            max_message: self.max_message,
            sent,
            check,
            moved: None,
        })
    }
}

/// Sends until it has sent enough, and a quarter of it the new way. Tells how much.
async fn send(
    course: Arc<Course>,
    mut to: Outgoing,
    pattern: Pattern,
    slow: bool,
    moving: impl Future<Output = bool>,
) -> Result<u64, Failure> {
    let (start, plan) = (Instant::now(), course.plan);
    let mut moving = pin!(moving.fuse());
    let mut enough = None;
    let mut sent = 0;
    loop {
        if !moving.is_terminated() && moving.as_mut().now_or_never().is_some() {
            enough = Some(plan.messages.max(sent + course.quarter()));
        }
        let over = match slow {
            true => *course.open.borrow(),
            false => *course.stuck.borrow(),
        };
        if over && enough.is_some_and(|enough| sent >= enough) && start.elapsed() >= plan.time {
            to.close().await?;
            return Ok(sent);
        }
        let mut sending = to.send(pattern.packet(sent));
        match tokio::time::timeout(STUCK, &mut sending).await {
            Ok(done) => done?,
            Err(_) => {
                if slow {
                    course.stuck.send_replace(true);
                }
                sending.await?;
            }
        }
        sent += 1;
    }
}

async fn receive(
    course: Arc<Course>,
    mut from: Incoming,
    pattern: Pattern,
    slow: bool,
    count: watch::Sender<u64>,
) -> Result<Check, Failure> {
    let mut check = Check::default();
    while let Some(packet) = from.next().await {
        check.note(&packet?, pattern);
        count.send_replace(check.received);
        if slow && check.received == course.quarter() {
            course.open.subscribe().wait_for(|open| *open).await?;
        }
    }
    Ok(check)
}

pub async fn run(plan: Plan) -> Result<Report, Failure> {
    let running = tokio::time::timeout(plan.time + PATIENCE, moved_under_load(plan));
    running.await.unwrap_or_else(|_| Err("it hangs".into()))
}

async fn moved_under_load(plan: Plan) -> Result<Report, Failure> {
    let start = |specs| Node::start(specs).map_err(|error| error.to_string());
    // Each side has its own idea of what is too large.
    let half = |spec: Spec| Spec {
        max_message: spec.max_message / 2,
        ..spec
    };
    let (mut dialer, mut listener) = (start(CHANNELS)?, start(CHANNELS.map(half))?);
    let tcp = listener.listen("/ip4/127.0.0.1/tcp/0").await?;
    let quic = listener.listen("/ip4/127.0.0.1/udp/0/quic-v1").await?;
    dialer.dial(listener.id, tcp).await?;
    let opening = try_join(dialer.open_all(listener.id), listener.accept_all());
    let (ours, theirs) = opening.await?;
    let streams: Vec<_> = ours
        .iter()
        .zip(&theirs)
        .map(|(a, b)| (a.stream, b.stream))
        .collect();

    let course = Arc::new(Course {
        plan,
        open: watch::Sender::new(false),
        stuck: watch::Sender::new(false),
    });
    let mut refused = 0;
    let mut started = Vec::new();
    for (mut ours, mut theirs) in ours.into_iter().zip(theirs) {
        for channel in [&mut ours, &mut theirs] {
            refused += usize::from(refuses(channel).await?);
        }
        let spec = ours.spec;
        let max = [ours.remote_max, theirs.remote_max];
        let (here, there) = (dialer.agreed(ours.stream), listener.agreed(theirs.stream));
        let slow = spec.id == SLOW;
        let ((out, back), (out_there, back_there)) = (ours.framed.split(), theirs.framed.split());
        started.push(Started::new(
            &course,
            spec,
            "→",
            slow,
            max[0],
            (out, back_there, here),
        ));
        started.push(Started::new(
            &course,
            spec,
            "←",
            false,
            max[1],
            (out_there, back, there),
        ));
    }

    for flow in &mut started {
        let quarter = course.quarter();
        flow.received
            .wait_for(|received| *received >= quarter)
            .await?;
    }
    dialer.dial(listener.id, quic).await?;

    let (slow, others): (Vec<_>, Vec<_>) =
        started.into_iter().partition(|flow| flow.spec.id == SLOW);
    let stopped = slow
        .iter()
        .find(|flow| flow.way == "→")
        .ok_or("no slow flow")?;
    let slow_count = stopped.received.clone();
    let others = async {
        let ended = try_join_all(others.into_iter().map(Started::end)).await?;
        let then = (
            *slow_count.borrow(),
            ended.iter().map(|flow| flow.check.received).sum(),
        );
        course.open.send_replace(true);
        Ok((ended, then))
    };
    let slow = try_join_all(slow.into_iter().map(Started::end));
    let ((mut flows, (slow_then, others_then)), slow) = try_join(others, slow).await?;
    flows.extend(slow);
    for flow in &mut flows {
        let index = CHANNELS.iter().position(|spec| spec.name == flow.channel);
        let (here, there) = streams[index.ok_or("another channel")?];
        flow.moved = match flow.way {
            "→" => dialer.moved(here).await,
            _ => listener.moved(there).await,
        };
    }
    flows.sort_by_key(|flow| CHANNELS.iter().position(|spec| spec.name == flow.channel));
    Ok(Report {
        flows,
        refused,
        slow_then,
        others_then,
    })
}

/// Whether a message that the remote would not take is refused here.
async fn refuses(channel: &mut Channel) -> Result<bool, CodecError> {
    let packet = Packet {
        sequence: 0,
        data: vec![0; channel.remote_max as usize],
    };
    match channel.framed.send(packet).await {
        Ok(()) => Ok(false),
        Err(CodecError::TooLargeToSend { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
