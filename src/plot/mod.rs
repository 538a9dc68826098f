//! How a figure looks: pictures, sheets, latents and charts that show themselves in a notebook.
//!
//! | Ask for | and get |
//! |---|---|
//! | [`picture`] | one picture, enlarged |
//! | [`pictures`], [`strip`], [`sheet`] | pictures in a grid with labels |
//! | [`latents`] | the channels of latents with a colour bar |
//! | [`panel`], [`lines`], [`figure`] | charts: lines, bands, points, histograms, heat maps |
//! | [`schedule_figure`], [`moments_figure`], [`noise_strip`], [`guidance_geometry`], [`loss_curve`], [`trace_figure`], [`trace_latents`] | the figures of the chapters |
//!
//! Every one is a value: it has `png()`, `save(path)`, and shows itself when it ends a notebook
//! cell. All lie on one light card ([`theme`]), so they read on a light page and on a dark one.

mod axis;
mod canvas;
mod chart;
mod figures;
mod show;
pub mod theme;
mod views;

pub use chart::{Panel, figure, lines, panel};
pub use figures::{
    guidance_geometry, loss_curve, moments_figure, noise_strip, schedule_figure, score_curves,
    trace_figure, trace_latents,
};
pub use show::Figure;
pub use views::{LatentsView, Picture, Sheet, Tile, latents, picture, pictures, sheet, strip};
