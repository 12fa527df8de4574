//! Written by pb-rs from `proto/streammigration.proto`; `tests/docs` compares.

#![allow(
    clippy::all,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    unreachable_pub,
    unused_imports,
    dead_code
)]
#![cfg_attr(rustfmt, rustfmt_skip)]

pub mod streammigration;
