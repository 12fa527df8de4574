//! One file per section of the report.

pub mod instructions;
pub mod mass;
pub mod memory;
pub mod open;
mod picture;
pub mod switch;
pub mod table;
pub mod throughput;
pub mod wire;

/// A runtime of its own for each section: what one leaves behind does not weigh on the next.
fn on_runtime<F: Future<Output = T>, T>(section: F) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(section)
}
