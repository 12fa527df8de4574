//! The layer over every swarm of the suites. `run.sh` makes a crate of this, and the suites make their swarms by it.

use std::{
    env,
    fs::OpenOptions,
    io::Write,
};

use libp2p_core::{muxing::StreamMuxerBox, transport::Boxed};
pub use libp2p_identity::PeerId;

/// A transport as swarms take it.
pub type Whole = Boxed<(PeerId, StreamMuxerBox)>;

/// `Swarm::new`, of whatever `Swarm` is where it is called: libp2p-swarm's own unit tests have another one than
/// everybody else.
#[macro_export]
macro_rules! swarm {
    ($transport:expr, $behaviour:expr, $local:expr, $config:expr $(,)?) => {{
        let transport: $crate::Whole = $transport;
        let behaviour = $behaviour;
        let local: $crate::PeerId = $local;
        Swarm::new($crate::wrap(local, transport), behaviour, local, $config)
    }};
}

/// The transport under the layer or as it is, by `LAYER_MODE`.
pub fn wrap(local: PeerId, transport: Whole) -> Whole {
    let mode = env::var("LAYER_MODE");
    let mode = mode.as_deref().unwrap_or("without");
    let (wrapped, transport) = match mode {
        "without" => (false, transport),
        mode => layered(mode, local, transport),
    };
    tally(wrapped);
    transport
}

#[cfg(feature = "layer")]
fn layered(mode: &str, local: PeerId, transport: Whole) -> (bool, Whole) {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use libp2p_core::Transport;
    use libp2p_stream_migration::{Config, transport};

    static SWARMS: AtomicUsize = AtomicUsize::new(0);
    let always = || Config::default().with_layer_always(true);
    let config = match mode {
        "default" => Config::default(),
        "always" => always(),
        "restless" => always().with_restless_layer(Some(Duration::from_millis(3))),
        "second" if SWARMS.fetch_add(1, Ordering::Relaxed) % 2 == 1 => return (false, transport),
        "second" => always(),
        mode => panic!("no mode: {mode}"),
    };
    let (layer, _) = transport::new(local, config);
    (true, layer.wrap(transport).boxed())
}

#[cfg(not(feature = "layer"))]
fn layered(mode: &str, _: PeerId, _: Whole) -> (bool, Whole) {
    panic!("built without the layer, and asked for {mode}")
}

/// Leaves a byte for each swarm: a run in which nothing was wrapped would be as green as any.
fn tally(wrapped: bool) {
    if let Ok(path) = env::var("LAYER_TALLY") {
        let byte: &[u8] = if wrapped { b"w" } else { b"p" };
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(byte)).unwrap();
    }
}
