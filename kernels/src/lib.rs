//! What a CPU computes faster by hand than libtorch does: attention and group norm; and work shared out among libtorch's
//! threads.
//!
//! ```text
//! softmax(q k^T / sqrt(d)) v        Vaswani et al. 2017, eq. 1
//! ```
//!
//! The scores of a few queries and 64 keys at a time stay in the nearest cache: their largest so far is subtracted, and what
//! was summed before shrinks when a larger one comes (Milakov and Gimelshein 2018, "Online normalizer calculation for
//! softmax"; Dao et al. 2022).
//!
//! This is a package of its own so that it is optimised also where the rest is not. It knows pointers and sizes, no tensors.
#![deny(missing_docs)]
// A tile of registers is addressed by row and column; iterators over it leave the registers.
#![allow(clippy::needless_range_loop)]
// Other CPUs have none of the loops yet.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

mod attention;
mod head;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod norm;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod singles;
pub mod team;

pub use attention::{Attention, Instructions, Matrices, Number};
pub use norm::GroupNorm;
