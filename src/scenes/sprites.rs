//! Sprites: SVG to pixels, and recoloured to match the caption's colour.

use std::sync::OnceLock;

use resvg::{tiny_skia, usvg};

use super::grammar::{Colour, Object, SpriteStyle, objects};
use crate::{Error, Result};

macro_rules! svgs {
    ($($variant:ident $word:literal),+ $(,)?) => {
        fn svg(object: Object, style: SpriteStyle) -> &'static str {
            macro_rules! file {
                ($style:literal, $name:literal) => {
                    include_str!(concat!("../../data/sprites/", $style, "/", $name, ".svg"))
                };
            }
            match (object, style) {
                $(
                    (Object::$variant, SpriteStyle::Flat) => file!("flat", $word),
                    (Object::$variant, SpriteStyle::ThreeD) => file!("3d", $word),
                    (Object::$variant, SpriteStyle::Cartoon) => file!("cartoon", $word),
                )+
            }
        }
    };
}

objects! { svgs! }

/// Premultiplied RGBA, row by row, without empty borders.
#[derive(Clone)]
pub(super) struct Sprite {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<[u8; 4]>,
}

/// Every object in every style and colour. Recoloured sprites are made on first use.
pub(super) struct Sprites {
    own: Vec<Sprite>,
    coloured: Vec<OnceLock<Sprite>>,
}

impl Sprites {
    /// Renders every sprite so that its longer side has `side` pixels.
    pub(super) fn new(side: usize) -> Result<Self> {
        let mut own = Vec::new();
        for &object in Object::ALL {
            for &style in SpriteStyle::ALL {
                own.push(draw(object, style, side)?);
            }
        }
        let coloured = (0..own.len() * Colour::ALL.len()).map(|_| OnceLock::new()).collect();
        Ok(Self { own, coloured })
    }

    /// The sprite of an object. Objects that take no colour keep their own.
    pub(super) fn get(
        &self,
        object: Object,
        style: SpriteStyle,
        colour: Option<Colour>,
    ) -> &Sprite {
        let index = object as usize * SpriteStyle::ALL.len() + style as usize;
        let own = &self.own[index];
        match (colour, object.hues()) {
            (Some(colour), Some(hues)) => self.coloured
                [index * Colour::ALL.len() + colour as usize]
                .get_or_init(|| recolour(own, hues, object.contrast(), target(colour))),
            _ => own,
        }
    }
}

fn draw(object: Object, style: SpriteStyle, side: usize) -> Result<Sprite> {
    let wrong = |message: String| Error::image(format!("the sprite {object}, {style}"), message);
    let tree = usvg::Tree::from_str(svg(object, style), &usvg::Options::default())
        .map_err(|e| wrong(e.to_string()))?;
    // The drawing has a margin: find it, then render again without it.
    let size = tree.size();
    let render = |scale: f32, x: f32, y: f32, width: usize, height: usize| {
        let mut map = tiny_skia::Pixmap::new(width as u32, height as u32)
            .ok_or_else(|| wrong(format!("no picture of {width} x {height} pixels")))?;
        let place = tiny_skia::Transform::from_translate(-x, -y).post_scale(scale, scale);
        resvg::render(&tree, place, &mut map.as_mut());
        Ok::<_, Error>(map)
    };
    let look = 128.0 / size.width().max(size.height());
    let map = render(look, 0.0, 0.0, 128, 128)?;
    let (mut x0, mut y0, mut x1, mut y1) = (128, 128, 0, 0);
    for (i, pixel) in map.pixels().iter().enumerate() {
        if pixel.alpha() > 24 {
            let (x, y) = (i % 128, i / 128);
            (x0, y0, x1, y1) = (x0.min(x), y0.min(y), x1.max(x + 1), y1.max(y + 1));
        }
    }
    if x0 >= x1 {
        return Err(wrong("it is empty".into()));
    }
    let fit = side as f32 / (x1 - x0).max(y1 - y0) as f32;
    let part = |from: usize, to: usize| ((to - from) as f32 * fit).round().max(1.0) as usize;
    let (width, height) = (part(x0, x1), part(y0, y1));
    let map = render(look * fit, x0 as f32 / look, y0 as f32 / look, width, height)?;
    let pixels = map.pixels().iter();
    let pixels = pixels.map(|p| [p.red(), p.green(), p.blue(), p.alpha()]).collect();
    Ok(Sprite { width, height, pixels })
}

/// Lightness, chroma and hue (in degrees) that people call by this name.
fn target(colour: Colour) -> [f32; 3] {
    match colour {
        Colour::Red => [0.58, 0.22, 27.0],
        Colour::Orange => [0.75, 0.175, 58.0],
        Colour::Yellow => [0.89, 0.175, 99.0],
        Colour::Green => [0.68, 0.19, 143.0],
        Colour::Blue => [0.58, 0.19, 257.0],
        Colour::Purple => [0.53, 0.21, 302.0],
        Colour::Pink => [0.79, 0.13, 352.0],
    }
}

/// Moves the pixels whose hue is in `hues` to the target colour. Each keeps the share `contrast` of its
/// difference from the mean lightness, and its relative chroma to the power of `contrast`, so that shading,
/// outlines and highlights remain.
fn recolour(sprite: &Sprite, hues: (f32, f32), contrast: f32, target: [f32; 3]) -> Sprite {
    let span = (hues.1 - hues.0).rem_euclid(360.0);
    let span = if span == 0.0 { 360.0 } else { span };
    let colours: Vec<([f32; 3], f32)> = sprite
        .pixels
        .iter()
        .map(|pixel| {
            let [r, g, b, a] = pixel.map(f32::from);
            if a == 0.0 {
                return ([0.0; 3], 0.0);
            }
            let lch = to_oklch([r / a, g / a, b / a]);
            let inside = (lch[2] - hues.0).rem_euclid(360.0) <= span;
            let weight = if inside { step(0.02, 0.06, lch[1]) } else { 0.0 };
            (lch, weight)
        })
        .collect();
    let (mut mass, mut lightness, mut chroma) = (0.0, 0.0, 0.0);
    for (pixel, (lch, weight)) in sprite.pixels.iter().zip(&colours) {
        let w = weight * lch[1] * f32::from(pixel[3]);
        (mass, lightness, chroma) = (mass + w, lightness + w * lch[0], chroma + w * lch[1]);
    }
    if mass == 0.0 {
        return sprite.clone();
    }
    (lightness, chroma) = (lightness / mass, chroma / mass);
    let pixels = sprite
        .pixels
        .iter()
        .zip(&colours)
        .map(|(&pixel, &(lch, weight))| {
            if weight == 0.0 {
                return pixel;
            }
            let a = f32::from(pixel[3]);
            let light = (target[0] + contrast * (lch[0] - lightness)).clamp(0.1, 0.96);
            let share = (lch[1] / chroma).min(1.1).powf(contrast);
            // Near white and black, less chroma is possible.
            let room = (step(1.0, target[0], light) * step(0.0, target[0], light)).sqrt();
            let new = from_oklch([light, target[1] * share * room.max(0.25), target[2]]);
            let mix = |i: usize| {
                let old = f32::from(pixel[i]);
                (old + weight * (new[i] * a - old)).clamp(0.0, a).round() as u8
            };
            [mix(0), mix(1), mix(2), pixel[3]]
        })
        .collect();
    Sprite { width: sprite.width, height: sprite.height, pixels }
}

/// 0 at `from`, 1 at `to`, linear in between and constant outside.
pub(super) fn step(from: f32, to: f32, x: f32) -> f32 {
    ((x - from) / (to - from)).clamp(0.0, 1.0)
}

/// sRGB to OKLCh: Björn Ottosson, "A perceptual color space for image processing", 2020.
fn to_oklch(rgb: [f32; 3]) -> [f32; 3] {
    let [r, g, b] =
        rgb.map(|c| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) });
    let l = (0.412_221_46 * r + 0.536_332_55 * g + 0.051_445_995 * b).cbrt();
    let m = (0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b).cbrt();
    let s = (0.088_302_46 * r + 0.281_718_85 * g + 0.629_978_7 * b).cbrt();
    let lightness = 0.210_454_26 * l + 0.793_617_8 * m - 0.004_072_047 * s;
    let x = 1.977_998_5 * l - 2.428_592_2 * m + 0.450_593_7 * s;
    let y = 0.025_904_037 * l + 0.782_771_77 * m - 0.808_675_77 * s;
    [lightness, x.hypot(y), y.atan2(x).to_degrees().rem_euclid(360.0)]
}

/// OKLCh to sRGB, clamped to [0, 1].
fn from_oklch([lightness, chroma, hue]: [f32; 3]) -> [f32; 3] {
    let (x, y) = (chroma * hue.to_radians().cos(), chroma * hue.to_radians().sin());
    let l = (lightness + 0.396_337_78 * x + 0.215_803_76 * y).powi(3);
    let m = (lightness - 0.105_561_346 * x - 0.063_854_17 * y).powi(3);
    let s = (lightness - 0.089_484_18 * x - 1.291_485_5 * y).powi(3);
    [
        4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s,
        -1.268_438 * l + 2.609_757_4 * m - 0.341_319_4 * s,
        -0.004_196_086 * l - 0.703_418_6 * m + 1.707_614_7 * s,
    ]
    .map(|c| {
        let c = c.clamp(0.0, 1.0);
        if c <= 0.003_130_8 { 12.92 * c } else { 1.055 * c.powf(1.0 / 2.4) - 0.055 }
    })
}
