//! The answer to the remote comes from outside: [`Outside`] asks by an event, and a control answers.

use std::time::Duration;

use libp2p_stream_migration::{Failure, MigrateError, Outside, Verdict};

use super::*;

const FAILED: MigrateError = MigrateError::Failed(Failure::LegLost);

struct Scene {
    net: Net,
    streams: Vec<(Stream, Stream)>,
    old: Pair,
    new: Pair,
    /// Questions that were asked.
    asked: usize,
}

impl Scene {
    async fn new(config: Config) -> Self {
        let listener = Node::with(setup(config).policy(Outside));
        let mut net = Net::with(Node::new(), listener);
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let old = net.connect(Kind::Tcp).await;
        let new = net.connect(Kind::Quic).await;
        let streams = open_many(&mut net, &mut incoming, old.here, 1).await;
        std::mem::forget(incoming);
        Self {
            net,
            streams,
            old,
            new,
            asked: 0,
        }
    }

    /// The dialer wants to move its stream.
    fn ask(&self) -> impl Future<Output = Result<(), MigrateError>> + use<> {
        let mut control = self.net.dialer.control.clone();
        let (key, to) = (self.streams[0].0.key(), self.new.here);
        async move { within("the migration", control.migrate(key, to)).await }
    }

    async fn asked(&mut self) {
        let (stream, onto) = (self.streams[0].1.key(), self.new.there);
        self.asked += 1;
        let question = |event: &Event| match event {
            Event::MigrationRequested { key, to, .. } => {
                assert_eq!((*key, *to), (stream, onto));
                true
            }
            _ => false,
        };
        let listener = &self.net.listener;
        listener.count("the question", self.asked, question).await;
    }

    /// Our own log says so, too.
    async fn declined(&self, number: usize, for_good: bool) {
        let stream = self.streams[0].1.key();
        let declined = |event: &Event| {
            matches!(event, Event::MigrationDeclined { key, to, for_good: said, .. }
                if (*key, *to, *said) == (stream, self.new.there, for_good))
        };
        let listener = &self.net.listener;
        listener.count("declined", number, declined).await;
    }

    async fn answer(&self, to: ConnectionKey, verdict: Verdict) -> Result<(), MigrateError> {
        let mut control = self.net.listener.control.clone();
        let answer = control.answer(self.streams[0].1.key(), to, verdict);
        within("being heard", answer).await
    }

    /// Asks, and has it answered.
    async fn asks_and_hears(&mut self, verdict: Verdict) -> Result<(), MigrateError> {
        let ask = self.ask();
        let (result, ()) = futures::join!(ask, async {
            self.asked().await;
            assert_eq!(self.answer(self.new.there, verdict).await, Ok(()));
        });
        result
    }
}

#[tokio::test]
async fn accepted() {
    let mut scene = Scene::new(eager()).await;
    assert_eq!(scene.asks_and_hears(Verdict::Accept).await, Ok(()));
    moved(
        &scene.net.listener,
        scene.streams[0].1.key(),
        scene.new.there,
    )
    .await;
    all_work(&mut scene.streams).await;
    // Once.
    let again = scene.answer(scene.new.there, Verdict::Accept).await;
    assert_eq!(again, Err(MigrateError::NotAsked));
}

#[tokio::test]
async fn denied() {
    let mut scene = Scene::new(eager()).await;
    let denied = Err(MigrateError::Denied);
    assert_eq!(scene.asks_and_hears(Verdict::Deny).await, denied);
    scene.declined(1, true).await;
    // For good: nobody is asked again.
    assert_eq!(scene.ask().await, denied);
    all_work(&mut scene.streams).await;
}

#[tokio::test]
async fn not_now_and_later() {
    let mut scene = Scene::new(eager()).await;
    assert_eq!(scene.asks_and_hears(Verdict::NotNow).await, Err(FAILED));
    scene.declined(1, false).await;
    all_work(&mut scene.streams).await;
    assert_eq!(scene.streams[0].0.connection(), Some(scene.old.here));
    assert_eq!(scene.asks_and_hears(Verdict::Accept).await, Ok(()));
    moved(
        &scene.net.listener,
        scene.streams[0].1.key(),
        scene.new.there,
    )
    .await;
    all_work(&mut scene.streams).await;
}

/// What is not asked is not answered, and the question stays.
#[tokio::test]
async fn wrong_answers() {
    let mut scene = Scene::new(eager()).await;
    let not_asked = Err(MigrateError::NotAsked);
    let early = scene.answer(scene.new.there, Verdict::Accept).await;
    assert_eq!(early, not_asked);
    let ask = scene.ask();
    let (result, ()) = futures::join!(ask, async {
        scene.asked().await;
        let elsewhere = scene.answer(scene.old.there, Verdict::Deny).await;
        assert_eq!(elsewhere, not_asked);
        let evasive = scene.answer(scene.new.there, Verdict::Ask).await;
        assert_eq!(evasive, not_asked);
        let right = scene.answer(scene.new.there, Verdict::Accept).await;
        assert_eq!(right, Ok(()));
    });
    assert_eq!(result, Ok(()));
    let key = scene.streams[0].1.key();
    drop(scene.streams);
    scene
        .net
        .listener
        .event("the end", |event| match event {
            Event::StreamEnded { .. } => Some(()),
            _ => None,
        })
        .await;
    let mut control = scene.net.listener.control.clone();
    let over = control.answer(key, scene.new.there, Verdict::Accept).await;
    assert_eq!(over, Err(MigrateError::UnknownStream(key)));
}

/// Nobody answers in time, which is "not now".
#[tokio::test]
async fn too_late() {
    let config = eager().with_answer_timeout(Duration::from_millis(200));
    let mut scene = Scene::new(config).await;
    assert_eq!(scene.ask().await, Err(FAILED));
    scene.asked().await;
    let late = scene.answer(scene.new.there, Verdict::Accept).await;
    assert_eq!(late, Err(MigrateError::NotAsked));
    all_work(&mut scene.streams).await;
    assert_eq!(scene.streams[0].0.connection(), Some(scene.old.here));
    // In time, the next time.
    assert_eq!(scene.asks_and_hears(Verdict::Accept).await, Ok(()));
    all_work(&mut scene.streams).await;
}

/// The one who asks gives up first; its connection goes, and with it the question.
#[tokio::test]
async fn the_question_is_withdrawn() {
    let mut scene = Scene::new(eager()).await;
    let ask = scene.ask();
    let (result, ()) = futures::join!(ask, async {
        scene.asked().await;
        scene.net.dialer.close(scene.new.here);
        closed(&scene.net.listener, scene.new.there).await;
        let late = scene.answer(scene.new.there, Verdict::Accept).await;
        assert_eq!(late, Err(MigrateError::NotAsked));
    });
    assert!(matches!(result, Err(MigrateError::Failed(_))), "{result:?}");
    all_work(&mut scene.streams).await;
}
