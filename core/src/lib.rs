//! The core of `libp2p-stream-migration`: everything that decides what moves where and when, and moves it, without a
//! swarm.
//!
//! For `libp2p-stream-migration` and its tests only: what is public here may change with any version.
//!
//! In the order of the data's path: [`key`] and [`permits`]; [`protocol`], the wire; [`machine`], one side of one
//! stream without I/O; [`stream`], its bytes over legs; [`table`], which stream of which peer answers to which ID;
//! [`view`] and [`policy`], what somebody may see and say; [`hub`], which decides per peer.

#![forbid(unsafe_code)]
// What `libp2p-stream-migration` hands on is documented, and its rooms say so; the rest is internal.
#![allow(missing_docs)]

pub mod error;
pub mod event;
pub mod hub;
pub mod key;
pub mod links;
pub mod machine;
pub mod permits;
pub mod policy;
pub mod protocol;
pub mod pulse;
pub mod seen;
pub mod shrink;
pub mod stream;
pub mod table;
pub mod view;
