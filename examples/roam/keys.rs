//! Keys, one at a time, where there is a terminal that `stty` knows.

use std::{
    io::{self, IsTerminal, Read},
    process::{Command, Stdio},
};

use tokio::sync::mpsc;

/// A terminal that tells of each key at once. As it was before when dropped.
pub struct Keys {
    before: String,
    pub pressed: mpsc::UnboundedReceiver<char>,
}

impl Keys {
    pub fn new() -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let before = stty(&["-g"])?;
        stty(&["-icanon", "-echo"])?;
        let (sender, pressed) = mpsc::unbounded_channel();
        // A thread of its own: it waits for a key when everything else is over.
        std::thread::spawn(move || {
            for byte in io::stdin().lock().bytes().map_while(Result::ok) {
                if sender.send(char::from(byte)).is_err() {
                    return;
                }
            }
        });
        Some(Self { before, pressed })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        stty(&[self.before.trim()]);
    }
}

fn stty(arguments: &[&str]) -> Option<String> {
    let output = Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(said)
}
