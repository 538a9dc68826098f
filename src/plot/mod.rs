//! How a figure looks: pictures, sheets, latents and charts that show themselves in a notebook.
//!
//! | Ask for | and get |
//! |---|---|
//! | [`picture`] | one picture, enlarged |
//! | [`pictures`], [`strip`], [`sheet`] | pictures in a grid with labels |
//! | [`latents`] | the channels of latents with a colour bar |
//! | [`panel`], [`lines`], [`figure`] | charts: lines, bands, points, histograms, heat maps |
//!
//! Schedules, traces, losses and comparisons of pictures are drawn by [`figures`](crate::figures).
//!
//! Every one is a value: it has `png()`, `save(path)`, and shows itself when it ends a notebook
//! cell. All lie on one light card ([`theme`]), so they read on a light page and on a dark one.

mod axis;
mod canvas;
mod card_style;
mod display;
mod heat_map;
mod latent_channels;
mod latents;
mod marks;
mod panel;
mod panel_layout;
mod panels;
mod picture_card;
mod plot_frame;
mod series_names;
mod sheet;
mod sheet_layout;
pub mod theme;
mod tile;

pub use display::Figure;
pub(crate) use display::{content, print};
pub use latents::{LatentsView, latents};
pub use panel::{Panel, panel};
pub use panels::{figure, lines};
pub use picture_card::{Picture, picture};
pub use sheet::{Sheet, pictures, sheet, strip};
pub use tile::Tile;
