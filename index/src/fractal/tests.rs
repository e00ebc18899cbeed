//! The fractal tree on pages in memory: what the suites over whole databases cannot see of it, pages read and built, runs
//! and nodes.

mod bench;
mod divide;
mod optimize;
mod queue;
