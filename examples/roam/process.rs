//! What goes between the conductor and its processes: orders, which are words on stdin, and
//! reports, which are JSON objects on stdout, one a line.

use std::{
    error::Error,
    io::{self, BufRead},
    str::FromStr,
};

use libp2p::{Multiaddr, PeerId};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{path::Path, say};

/// An order to a node.
#[derive(Debug, Clone)]
pub enum Order {
    /// This path is to be there, at this address.
    Dial(Path, Multiaddr),
    /// A reservation is to be held with this relay.
    Reserve(Multiaddr),
    /// A peer has this address.
    Knows(Multiaddr),
    /// The file is to be sent to this peer.
    Start(PeerId),
    /// Nothing more will happen: the rest may go as fast as it can.
    Finish,
    /// What is reported from now on has this number; the longest pause is measured anew.
    Mark(u64),
}

impl Order {
    pub fn line(&self) -> String {
        match self {
            Self::Dial(path, address) => format!("dial {path} {address}"),
            Self::Reserve(address) => format!("reserve {address}"),
            Self::Knows(address) => format!("knows {address}"),
            Self::Start(peer) => format!("start {peer}"),
            Self::Finish => "finish".to_owned(),
            Self::Mark(number) => format!("mark {number}"),
        }
    }
}

impl FromStr for Order {
    type Err = Box<dyn Error>;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["dial", path, address] => Self::Dial(path.parse()?, address.parse()?),
            ["reserve", address] => Self::Reserve(address.parse()?),
            ["knows", address] => Self::Knows(address.parse()?),
            ["start", peer] => Self::Start(peer.parse()?),
            ["finish"] => Self::Finish,
            ["mark", number] => Self::Mark(number.parse()?),
            _ => return Err(format!("not an order: {line}").into()),
        })
    }
}

/// The conductor's orders. They end when it does.
pub fn orders() -> mpsc::UnboundedReceiver<Order> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // A thread of its own: it may wait when everything else is over.
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let sent = line.parse().map(|order| sender.send(order));
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(error) => eprintln!("error: {error}"),
            }
        }
    });
    receiver
}

pub fn report(report: &Value) -> io::Result<()> {
    say(&report.to_string())
}
