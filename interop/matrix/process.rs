//! A test peer as a child process: commands in, answers and events out, everything logged.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Notify, mpsc},
};

use crate::case::Impl;

/// How long a peer may take to exit once told to.
const EXIT: Duration = Duration::from_secs(5);

/// What a check comes to; an error is a line of the report.
pub type Check<T = ()> = Result<T, String>;

/// Where the peers' programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    pub rust: PathBuf,
    pub go: Option<PathBuf>,
    pub js: Option<PathBuf>,
}

impl Programs {
    fn command(&self, which: Impl) -> Check<Command> {
        let path = match which {
            Impl::Rust => Some(&self.rust),
            Impl::Go => self.go.as_ref(),
            Impl::Js => self.js.as_ref(),
        };
        let path = path.ok_or_else(|| format!("no {} peer was given", which.name()))?;
        if which == Impl::Js {
            let mut command = Command::new("node");
            command.arg(path);
            return Ok(command);
        }
        Ok(Command::new(path))
    }
}

/// What a case's peers have in common.
#[derive(Debug, Clone)]
pub struct Place {
    pub programs: Programs,
    /// The folder for its logs.
    pub logs: PathBuf,
    pub waits: Waits,
}

/// An answer that is an error.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub kind: String,
    pub text: String,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<u64, Value>,
    events: Vec<Value>,
    last_seq: u64,
    ended: bool,
}

struct Shared {
    name: String,
    /// Protects what was said.
    state: Mutex<State>,
    news: Notify,
    waits: Waits,
    log: Mutex<File>,
    started: Instant,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, direction: char, line: &str) {
        let at = self.started.elapsed().as_secs_f64();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written is no fault of the peers.
        let _ = writeln!(log, "{at:8.3} {direction} {line}");
    }

    async fn wait<T>(&self, what: &str, mut find: impl FnMut(&mut State) -> Option<T>) -> Check<T> {
        let _waiting = self.waits.begin(format!("{}: {what}", self.name));
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(found) = find(&mut state) {
                    return Ok(found);
                }
                if state.ended {
                    return Err(format!("{} ended before {what}", self.name));
                }
            }
            news.await;
        }
    }
}

/// What is being waited for in a case, to be named should it never come.
#[derive(Debug, Clone, Default)]
pub struct Waits(Arc<Mutex<(u64, BTreeMap<u64, String>)>>);

struct Waiting(Waits, u64);

impl Waits {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, what: String) -> Waiting {
        let mut all = self.lock();
        all.0 += 1;
        let number = all.0;
        all.1.insert(number, what);
        Waiting(self.clone(), number)
    }

    pub fn all(&self) -> String {
        let all: Vec<_> = self.lock().1.values().cloned().collect();
        all.join("; ")
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().1.remove(&self.1);
    }
}

/// A test peer. Killed when dropped.
pub struct Peer {
    /// Its peer ID.
    pub id: String,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<String>,
    child: Child,
}

impl Peer {
    /// Starts a peer.
    pub async fn start(which: Impl, name: &str, flags: &[String], place: &Place) -> Check<Self> {
        let logs = &place.logs;
        let create = |ending: &str| {
            File::create(logs.join(format!("{name}-{}.{ending}", which.name())))
                .map_err(|error| format!("cannot log to {}: {error}", logs.display()))
        };
        fs::create_dir_all(logs).map_err(|error| format!("{}: {error}", logs.display()))?;
        let mut command = place.programs.command(which)?;
        command
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(create("stderr")?)
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let shared = Arc::new(Shared {
            name: format!("{name} ({})", which.name()),
            state: Mutex::default(),
            news: Notify::new(),
            waits: place.waits.clone(),
            log: Mutex::new(create("io")?),
            started: Instant::now(),
        });
        shared.log('$', &format!("{command:?}"));
        let (commands, receiver) = mpsc::unbounded_channel();
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a child without pipes".to_owned());
        };
        tokio::spawn(write(stdin, receiver, shared.clone()));
        tokio::spawn(read(stdout, shared.clone()));
        let mut peer = Self {
            id: String::new(),
            shared,
            commands,
            child,
        };
        let ready = peer.event("it is ready", |event| event["event"] == "ready");
        let ready = ready.await?;
        peer.id = text(&ready, "peer")?.to_owned();
        Ok(peer)
    }

    /// Sends a command, now; what is returned waits for its answer.
    pub fn send(
        &self,
        command: Value,
    ) -> impl Future<Output = Check<Result<Value, Refusal>>> + use<> {
        let seq = {
            let mut state = self.shared.state();
            state.last_seq += 1;
            state.last_seq
        };
        let mut line = command;
        line["seq"] = seq.into();
        let line = line.to_string();
        let shared = self.shared.clone();
        let _ = self.commands.send(line.clone());
        async move {
            let what = format!("an answer to {line}");
            let answer = shared
                .wait(&what, |state| state.answers.remove(&seq))
                .await?;
            if answer["ok"] == true {
                return Ok(Ok(answer));
            }
            Ok(Err(Refusal {
                kind: text(&answer, "kind")?.to_owned(),
                text: answer["error"].as_str().unwrap_or_default().to_owned(),
            }))
        }
    }

    /// Sends a command that must not fail.
    pub fn call(&self, command: Value) -> impl Future<Output = Check<Value>> + use<> {
        let what = format!("{}: {command}", self.shared.name);
        let answer = self.send(command);
        async move {
            let answer = answer.await?;
            answer.map_err(|it| format!("{what}: {}: {}", it.kind, it.text))
        }
    }

    /// Waits for an event and takes it.
    pub async fn event(&self, what: &str, is: impl Fn(&Value) -> bool) -> Check<Value> {
        let find = |state: &mut State| {
            let at = state.events.iter().position(&is)?;
            Some(state.events.remove(at))
        };
        self.shared.wait(what, find).await
    }

    /// Waits for an event and leaves it.
    pub async fn first_event(&self, what: &str, is: impl Fn(&Value) -> bool) -> Check<Value> {
        let find = |state: &mut State| state.events.iter().find(|event| is(event)).cloned();
        self.shared.wait(what, find).await
    }

    /// The events that nobody has taken.
    pub fn events(&self, is: impl Fn(&Value) -> bool) -> Vec<Value> {
        let state = self.shared.state();
        state
            .events
            .iter()
            .filter(|event| is(event))
            .cloned()
            .collect()
    }

    /// Quits it, and expects it to do so in order.
    pub async fn quit(mut self) -> Check {
        // The answer may be lost in the exit.
        drop(self.send(serde_json::json!({ "cmd": "quit" })));
        let name = &self.shared.name;
        match tokio::time::timeout(EXIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{name} ended with {status}")),
            Ok(Err(error)) => Err(format!("{name}: {error}")),
            Err(_) => Err(format!("{name} does not quit")),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its group, should it have started something itself; `kill_on_drop` sees to the rest.
        if let Some(id) = self.child.id() {
            let _ = std::process::Command::new("kill")
                .args(["-KILL", "--", &format!("-{id}")])
                .stderr(Stdio::null())
                .status();
        }
    }
}

async fn write(
    mut stdin: ChildStdin,
    mut lines: mpsc::UnboundedReceiver<String>,
    shared: Arc<Shared>,
) {
    while let Some(line) = lines.recv().await {
        shared.log('>', &line);
        if stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn read(stdout: ChildStdout, shared: Arc<Shared>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        shared.log('<', &line);
        let mut state = shared.state();
        match serde_json::from_str::<Value>(&line) {
            Ok(said) if said["event"].is_string() => state.events.push(said),
            Ok(said) => match said["seq"].as_u64() {
                Some(seq) => {
                    state.answers.insert(seq, said);
                }
                None => shared.log('!', "neither an event nor an answer"),
            },
            Err(error) => shared.log('!', &error.to_string()),
        }
        drop(state);
        shared.news.notify_waiters();
    }
    shared.state().ended = true;
    shared.news.notify_waiters();
}

/// A field that has to be a text.
pub fn text<'a>(value: &'a Value, field: &str) -> Check<&'a str> {
    let found = value[field].as_str();
    found.ok_or_else(|| format!("{field:?} is no text in {value}"))
}
