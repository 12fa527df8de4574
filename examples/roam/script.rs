//! The course of events: by a script, or by keys.

use std::{error::Error, process::ExitCode, time::Duration};

use serde_json::json;

use crate::{
    args::{Act, Args},
    keys::Keys,
    path::Path,
    process::Order,
    proxy::State,
    screen::Screen,
    stage::Stage,
    step::{Event, Step, millis},
    world::{View, Who, World, wait},
};

/// The script.
const ACTS: [Act; 6] = [
    Act::Cut,
    Act::Silence,
    Act::AllGone,
    Act::RelayRestart,
    Act::BothMoved,
    Act::ReceiverMoved,
];

/// The time in which the stream goes on after an event, at the latest.
const LIMIT: Duration = Duration::from_secs(20);

/// The time that Wi-Fi is given to be in use again.
const SETTLED: Duration = Duration::from_secs(3);

/// The time without any path.
const NOTHING: Duration = Duration::from_secs(10);

/// The time after which somebody tells the sender of new addresses.
const MOMENT: Duration = Duration::from_secs(1);

/// The time that the rest takes when the script is over, or the receipt.
const REST: Duration = Duration::from_secs(60);

/// A person may take any time.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

pub async fn conduct(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let screen = Screen::new(args.json);
    let mut stage = Stage::new(args).await?;
    stage.begin().await?;
    let world = stage.world.clone();
    let course = async {
        if args.script {
            let (stage, screen) = (&mut stage, &screen);
            Script { stage, screen }.run(args).await?;
            stage.order(Who::Sender, &Order::Finish).await?;
            over(&world, REST).await?;
        } else if let Some(keys) = Keys::new() {
            let line = "w, c, r: cut or mend Wi-Fi, cellular, the relay; W, C, R: silence; q: quit";
            screen.say(line, None);
            return by_hand(&mut stage, &screen, keys).await;
        } else {
            over(&world, FOREVER).await?;
        }
        Ok(true)
    };
    let to_the_end = tokio::select! {
        done = course => done?,
        () = screen.show(&world) => false,
        _ = tokio::signal::ctrl_c() => return Err("interrupted".into()),
    };
    if !to_the_end {
        screen.say("quit before the end", None);
        return Ok(ExitCode::FAILURE);
    }
    let exact = {
        let world = world.borrow();
        let (sender, receiver) = (&world.sender, &world.receiver);
        let exact = sender.exact && sender.done.is_some() && sender.done == receiver.done;
        let hash = |of: &Option<String>| of.clone().unwrap_or_default();
        let json = json!({
            "exact": exact,
            "sha256": hash(&receiver.done),
            "bytes": receiver.bytes,
            "migrations": sender.migrations,
            "resumes": sender.resumes,
            "again": sender.again,
            "longest_pause_ms": millis(receiver.longest_pause),
        });
        let lines = format!(
            "sent      {}\nreceived  {}, {}\n{} bytes, {} migrations, {} resumes, {} bytes again, \
             longest pause {:.3} s",
            hash(&sender.done),
            hash(&receiver.done),
            if exact { "equal" } else { "NOT EQUAL" },
            receiver.bytes,
            sender.migrations,
            sender.resumes,
            sender.again,
            receiver.longest_pause.as_secs_f64(),
        );
        screen.say(&lines, Some(&json));
        exact
    };
    Ok(match exact {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn over(world: &tokio::sync::watch::Sender<World>, limit: Duration) -> Result<(), String> {
    let over = |world: &World| world.sender.done.is_some() && world.receiver.done.is_some();
    wait(world, "the receipt", limit, over).await
}

struct Script<'a> {
    stage: &'a mut Stage,
    screen: &'a Screen,
}

impl Script<'_> {
    /// Each act begins with all paths up.
    async fn run(mut self, args: &Args) -> Result<(), Box<dyn Error>> {
        let acts = match &args.only[..] {
            [] => &ACTS[..],
            only => only,
        };
        for act in acts {
            self.rest().await?;
            match act {
                Act::Cut => self.lose(Event::Cut, State::Cut).await?,
                Act::Silence => self.lose(Event::Silence, State::Silent).await?,
                Act::AllGone => self.all_gone().await?,
                Act::RelayRestart => self.relay_restart().await?,
                Act::BothMoved => self.both_moved().await?,
                Act::ReceiverMoved => self.receiver_moved().await?,
            }
        }
        Ok(())
    }

    /// All paths are there, and the stream is on a direct one.
    async fn rest(&mut self) -> Result<(), Box<dyn Error>> {
        self.stage.set_all(State::Open);
        self.stage.are_up(&Path::ALL).await?;
        let on = |view: &View, path: Path| !view.suspended && view.path == path.name();
        let both = |world: &World, path| on(&world.sender, path) && on(&world.receiver, path);
        let wifi = |world: &World| both(world, Path::Wifi);
        // Who has been silent is in disgrace for a while; then cellular will do.
        if wait(&self.stage.world, "Wi-Fi", SETTLED, wifi)
            .await
            .is_ok()
        {
            return Ok(());
        }
        let direct = |world: &World| wifi(world) || both(world, Path::Cellular);
        Ok(wait(&self.stage.world, "a direct path", LIMIT, direct).await?)
    }

    fn step(&self, event: Event, path: Option<Path>, on: &[Path]) -> Step {
        Step::new(&self.stage.world.borrow(), event, path, on)
    }

    async fn goes_on(&mut self, mut step: Step) -> Result<(), Box<dyn Error>> {
        let what = step.what();
        let gone_on = |world: &World| step.has_gone_on(world);
        if let Err(error) = wait(&self.stage.world, &what, LIMIT, gone_on).await {
            for line in self.stage.world.borrow().lines_since(step.since) {
                eprintln!("{line}");
            }
            return Err(error.into());
        }
        show(self.stage, self.screen, &step).await
    }

    /// The path in use is lost, and the next one; the last one stays.
    async fn lose(&mut self, event: Event, state: State) -> Result<(), Box<dyn Error>> {
        let mut left = Path::ALL.to_vec();
        while left.len() > 1 {
            let used: Path = self.stage.world.borrow().sender.path.parse()?;
            left.retain(|path| *path != used);
            self.stage.mark().await?;
            let step = self.step(event, Some(used), &left);
            self.stage.set(used, state);
            self.goes_on(step).await?;
        }
        Ok(())
    }

    /// All paths are gone for a while.
    async fn all_gone(&mut self) -> Result<(), Box<dyn Error>> {
        self.stage.mark().await?;
        let mut step = self.step(Event::AllGone, None, &Path::ALL);
        self.stage.set_all(State::Cut);
        // The event itself.
        tokio::time::sleep(NOTHING).await;
        self.stage.set_all(State::Open);
        step.now(&self.stage.world.borrow());
        self.goes_on(step).await
    }

    /// The relay is restarted while the stream is on it.
    async fn relay_restart(&mut self) -> Result<(), Box<dyn Error>> {
        self.stage.set(Path::Wifi, State::Cut);
        self.stage.set(Path::Cellular, State::Cut);
        let relayed = |view: &View| view.path == Path::Relay.name() && !view.suspended;
        wait(&self.stage.world, "the relay in use", LIMIT, |world| {
            relayed(&world.sender) && relayed(&world.receiver)
        })
        .await?;
        self.stage.mark().await?;
        let mut step = self.step(Event::RelayRestart, Some(Path::Relay), &[Path::Relay]);
        self.stage.kill_relay().await?;
        self.stage.restart_relay().await?;
        step.now(&self.stage.world.borrow());
        self.goes_on(step).await
    }

    /// Both sides are elsewhere at once: what was is silent, and the sender is told of the new
    /// addresses a moment later.
    async fn both_moved(&mut self) -> Result<(), Box<dyn Error>> {
        self.stage.mark().await?;
        let mut step = self.step(Event::BothMoved, None, &[Path::Wifi, Path::Cellular]);
        self.stage.set_all(State::Silent);
        let networks = self.stage.networks().await?;
        // The event itself.
        tokio::time::sleep(MOMENT).await;
        for (path, address) in networks {
            self.stage
                .order(Who::Sender, &Order::Dial(path, address))
                .await?;
        }
        step.now(&self.stage.world.borrow());
        self.goes_on(step).await
    }

    /// The receiver is elsewhere, where nobody can dial it, and nobody is told of anything: it has
    /// to notice by itself, and to dial.
    async fn receiver_moved(&mut self) -> Result<(), Box<dyn Error>> {
        let back = self.stage.way_back().await?;
        self.stage.mark().await?;
        let mut step = self.step(Event::ReceiverMoved, None, &[Path::Wifi]);
        self.stage.set_all(State::Silent);
        back.set(State::Open);
        step.now(&self.stage.world.borrow());
        self.goes_on(step).await
    }
}

async fn show(stage: &mut Stage, screen: &Screen, step: &Step) -> Result<(), Box<dyn Error>> {
    stage.mark().await?;
    let outcome = step.outcome(&stage.world.borrow());
    screen.say(&outcome.line(), Some(&outcome.json()));
    Ok(())
}

/// Returns whether it went to the end.
async fn by_hand(
    stage: &mut Stage,
    screen: &Screen,
    mut keys: Keys,
) -> Result<bool, Box<dyn Error>> {
    let world = stage.world.clone();
    let mut news = world.subscribe();
    let mut step: Option<Step> = None;
    loop {
        tokio::select! {
            over = over(&world, FOREVER) => {
                over?;
                return Ok(true);
            }
            key = keys.pressed.recv() => {
                let key = key.unwrap_or('q');
                let path = match key.to_ascii_lowercase() {
                    'q' => return Ok(false),
                    'w' => Path::Wifi,
                    'c' => Path::Cellular,
                    'r' => Path::Relay,
                    _ => continue,
                };
                let (event, state) = match (stage.state(path), key.is_ascii_uppercase()) {
                    (State::Open, false) => (Event::Cut, State::Cut),
                    (State::Open, true) => (Event::Silence, State::Silent),
                    _ => (Event::Mend, State::Open),
                };
                let used = world.borrow().sender.path == path.name();
                if used && state != State::Open {
                    stage.mark().await?;
                    let others = Path::ALL.into_iter().filter(|other| *other != path);
                    let others: Vec<_> = others.collect();
                    step = Some(Step::new(&world.borrow(), event, Some(path), &others));
                } else {
                    screen.say(&event.words(Some(path)), None);
                }
                if let (Some(step), State::Open) = (&mut step, state) {
                    step.also_on(path);
                }
                stage.set(path, state);
            }
            Ok(()) = news.changed() => {
                let gone_on = step.take_if(|step| step.has_gone_on(&news.borrow_and_update()));
                if let Some(step) = gone_on {
                    show(stage, screen, &step).await?;
                }
            }
        }
    }
}
