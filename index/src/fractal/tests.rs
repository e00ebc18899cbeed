//! Whole tables, as the engine drives them, where what is tested is inside: their shape, and what work touches runs
//! and nodes.

mod bench;
mod bounds;
mod divide;
mod flush;
mod optimize;
mod progress;
mod queue;
mod sorted;
mod space;
