//! The flags, and what of them this crate cannot do.

use std::process;

use clap::{Parser, ValueEnum};
use libp2p::identity::Keypair;

/// The crate's test peer: JSON lines in, JSON lines out, as `interop/README.md` has it.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// Derive the key from this number. Default: somebody new each time.
    #[arg(long)]
    seed: Option<u64>,
    /// What a dialed TCP or WebSocket connection, or one through a relay, asks for first.
    #[arg(long, value_enum, default_value_t = Security::Noise)]
    pub security: Security,
    /// Also be a relay, with limits that the matrix never reaches.
    #[arg(long)]
    pub relay: bool,
    /// Never have heard of the migration protocol.
    #[arg(long)]
    pub no_migration: bool,
    /// Do without the verified switch.
    #[arg(long)]
    pub no_verify: bool,
    /// Also below the swarm: the transport is wrapped, and streams are opened through the layer.
    #[arg(long)]
    pub layer: bool,
    /// With `--layer`: hello is said only where the protocol has it said.
    #[arg(long, requires = "layer")]
    pub as_needed: bool,
    /// Only `wrapped`.
    #[arg(long, value_enum, default_value_t = AckForm::Wrapped)]
    ack: AckForm,
    /// Not supported.
    #[arg(long)]
    nested: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Security {
    Noise,
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AckForm {
    Wrapped,
    Bare,
}

impl Args {
    /// The flags; exits with code 2 on those that nobody has, and on those that we do not have.
    pub fn read() -> Self {
        let args = Self::parse();
        let head = "the crate only writes what the spec's head says";
        let missing = [
            (args.ack == AckForm::Bare, "--ack bare", head),
            (args.nested, "--nested", head),
            (
                args.layer && matches!(args.security, Security::Tls),
                "--layer with --security tls",
                "the stack has Noise",
            ),
        ];
        for (asked, flag, why) in missing {
            if asked {
                eprintln!("error: {flag} is unsupported: {why}");
                process::exit(2);
            }
        }
        args
    }

    pub fn keypair(&self) -> Keypair {
        let Some(seed) = self.seed else {
            return Keypair::generate_ed25519();
        };
        let mut secret = [0; 32];
        for part in secret.chunks_exact_mut(8) {
            part.copy_from_slice(&seed.to_be_bytes());
        }
        Keypair::ed25519_from_bytes(secret).expect("any 32 bytes are an ed25519 key")
    }
}
