//! What the peer says: events, and answers to commands.

use std::{
    io::{self, Write},
    process,
};

use serde_json::{Value, json};

/// A line on standard output, at once.
pub fn say(line: &Value) {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    if said.is_err() {
        // Nobody listens any more.
        process::exit(0);
    }
}

/// The kinds of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Denied,
    Failed,
    Reset,
    Corrupt,
    Unsupported,
    BadCommand,
    Other,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Reset => "reset",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::BadCommand => "bad_command",
            Self::Other => "other",
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub text: String,
}

impl Error {
    pub fn new(kind: Kind, text: impl ToString) -> Self {
        Self {
            kind,
            text: text.to_string(),
        }
    }

    pub fn bad(text: impl ToString) -> Self {
        Self::new(Kind::BadCommand, text)
    }
}

/// What a command comes to: the fields of its answer.
pub type Answer = Result<Value, Error>;

/// An answer that is owed. A command that is dropped with its stream is answered, too.
#[derive(Debug)]
pub struct Reply {
    seq: Option<Value>,
}

impl Reply {
    pub fn new(seq: Value) -> Self {
        Self { seq: Some(seq) }
    }

    pub fn send(mut self, answer: Answer) {
        self.answer(answer);
    }

    fn answer(&mut self, answer: Answer) {
        let Some(seq) = self.seq.take() else {
            return;
        };
        let mut line = match answer {
            Ok(fields) => {
                let mut line = fields;
                line["ok"] = true.into();
                line
            }
            Err(error) => json!({ "ok": false, "kind": error.kind.name(), "error": error.text }),
        };
        line["seq"] = seq;
        say(&line);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Err(Error::new(Kind::Reset, "the stream was let go of")));
    }
}
