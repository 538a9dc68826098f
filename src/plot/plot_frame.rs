//! Where a panel and its plotting area lie.

/// Charts are drawn this many times larger and then reduced, for smooth lines.
pub(super) const FINE: u32 = 3;

/// Where a panel lies, in pixels of the finished figure.
#[derive(Clone, Copy)]
pub(super) struct PanelPlace {
    pub x: i32,
    pub y: i32,
    pub width: u32,
    pub height: u32,
}

/// The plotting area, in pixels of the canvas.
pub(super) struct PlotFrame {
    pub x: f32,
    pub y: f32,
    pub width: f32,
    pub height: f32,
    pub y_range: (f64, f64),
}

impl PlotFrame {
    /// Where a value lies, in pixels from the top of the canvas.
    pub fn y_of(&self, value: f64) -> f32 {
        let part = (value - self.y_range.0) / (self.y_range.1 - self.y_range.0);
        self.y + (1. - part as f32) * self.height
    }
}
