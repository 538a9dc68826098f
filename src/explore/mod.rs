//! The interactive figure: one self-contained page on which a run is turned over by hand.
//!
//! A trace holds both predictions and the weights of every step, so the page itself forms the guided noise, the predicted
//! picture and the next sample at any guidance scale, in the browser and without a server. It checks itself: every
//! recorded step is taken again, and the largest difference stands on the page.
//!
//! | Ask for | and get |
//! |---|---|
//! | [`page`] | a trace as a page, at the end of a cell or [as a file](Page::save) |
//! | [`Recording::draw`] | prompts, seeds and guidance scales of a model, for [`Recording::page`] |
//!
//! Between the scales that were drawn, and without a decoder, latents are shown as colours by a linear map, whose share of
//! the variance stands beside it.
//!
//! The page is one component, `page/`: where its answers come from is one small interface in it (`source.js`), which a file
//! implements today.

mod atlas;
mod attention;
mod axes;
mod document;
mod numbers;
mod recording;
mod replay;
mod still;

pub use document::{CELL_LIMIT, FILE_LIMIT, FULL_LIMIT, Page, component_bytes};
pub use recording::{DecodeWith, Recording};
pub use replay::{Replayed, replay};

use crate::Result;
use crate::pipeline::Trace;

/// A trace as an interactive page: the value shows it at the end of a cell.
///
/// It has no decoder: latents are shown as colours by a linear map and as channels, and the result as the picture that it
/// is. [`Recording::page`] takes a decoder.
///
/// ```no_run
/// use diffuscope::{explore, pipeline::{Request, StableDiffusion}};
/// let sd = StableDiffusion::tiny()?;
/// let trace = sd.trace(&Request::new("a red apple on the grass"))?;
/// explore::page(&trace)?.save("apple.html")?;
/// # Ok::<(), diffuscope::Error>(())
/// ```
/// # Errors
/// A trace without steps, of more than two prompts, or that does not know what it was made with; one that does not fit into
/// a cell's output of 2 MB.
pub fn page(trace: &Trace) -> Result<Page> {
    Recording::new(vec![trace.shallow_clone()])?.page(CELL_LIMIT, None)
}
