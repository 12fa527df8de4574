//! What is committed beside the code, against the code: pages, the picture of the rooms, what is
//! generated, and bytes on record.

mod architecture;
mod generated_code;
mod pages;
mod vectors;
