//! Pictures as files and as bytes: what diffusers' image processor does before and after the model.
//!
//! A picture is a tensor `[B, 3, H, W]`, RGB, in `[-1, 1]`; a file holds 8-bit RGB.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use image::error::{ImageError, LimitErrorKind};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use tch::{Kind, Tensor};

use crate::write_file::write_file;
use crate::{Error, Result};

/// The longest side of a picture that is read or written.
const LONGEST_SIDE: u32 = 16_384;

/// One picture in 8-bit RGB, row by row from the top.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height * 3` bytes: red, green, blue.
    pub pixels: Vec<u8>,
}

impl fmt::Debug for Rgb8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rgb8 {}×{}", self.width, self.height)
    }
}

impl Rgb8 {
    /// The picture as a tensor `[1, 3, H, W]`, f32, in `[-1, 1]`: `x = pixel / 255 * 2 - 1`.
    ///
    /// # Errors
    /// Bytes that are not `width * height * 3`.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let (width, height) = (i64::from(self.width), i64::from(self.height));
        if self.pixels.len() as i64 != width * height * 3 {
            return Err(Error::argument(
                "pixels",
                format!("{width} × {height} × 3 bytes"),
                self.pixels.len(),
            ));
        }
        let bytes = Tensor::from_slice(&self.pixels).view([1, height, width, 3]);
        Ok(bytes.permute([0, 3, 1, 2]).to_kind(Kind::Float).contiguous() / 255. * 2. - 1.)
    }

    /// The picture as a PNG file in memory, with `text` as UTF-8 metadata (`iTXt` chunks).
    ///
    /// # Errors
    /// A key that PNG does not allow (1 to 79 Latin-1 characters); no pixels.
    pub fn to_png(&self, text: &[(String, String)]) -> Result<Vec<u8>> {
        let fail = |message: String| Error::image("PNG", message);
        let mut info = png::Info::with_size(self.width, self.height);
        info.color_type = png::ColorType::Rgb;
        info.bit_depth = png::BitDepth::Eight;
        let mut out = Vec::new();
        let mut encoder =
            png::Encoder::with_info(&mut out, info).map_err(|e| fail(e.to_string()))?;
        for (key, value) in text {
            // PNG ends strings with NUL, so a value cannot hold one.
            let value = value.replace('\0', "\u{fffd}");
            let latin_1 = key.chars().all(|c| matches!(c, ' '..='~' | '\u{a1}'..='\u{ff}'));
            if !latin_1 || !(1..=79).contains(&key.chars().count()) {
                return Err(Error::argument(
                    "metadata key",
                    "1 to 79 printable Latin-1 characters",
                    format!("{key:?}"),
                ));
            }
            encoder.add_itxt_chunk(key.clone(), value).map_err(|e| fail(e.to_string()))?;
        }
        let mut writer = encoder.write_header().map_err(|e| fail(e.to_string()))?;
        writer.write_image_data(&self.pixels).map_err(|e| fail(e.to_string()))?;
        writer.finish().map_err(|e| fail(e.to_string()))?;
        Ok(out)
    }

    /// The picture in another size.
    pub(crate) fn resized(&self, width: u32, height: u32, filter: FilterType) -> Result<Self> {
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let image = RgbImage::from_raw(self.width, self.height, self.pixels.clone())
            .ok_or_else(|| Error::image("picture", "has too few bytes for its size"))?;
        let pixels = imageops::resize(&image, width, height, filter).into_raw();
        Ok(Self { width, height, pixels })
    }
}

/// Reads a PNG or JPEG file as a tensor `[1, 3, height, width]`, f32, in `[-1, 1]`.
///
/// As diffusers' `load_image` and `VaeImageProcessor` do, the picture is turned as its EXIF orientation says, its alpha is
/// dropped, palettes become colours and 16 bits their upper 8, and it is resized to `width` × `height` with a Lanczos
/// filter (its proportions are not kept: crop it first if they must be).
///
/// # Errors
/// A file that is missing, is not a picture, is damaged or cut short, or is larger than 16384 pixels
/// a side; a size of 0 or above 16384.
pub fn read(path: impl AsRef<Path>, width: u32, height: u32) -> Result<Tensor> {
    resized(rgb8(open(path.as_ref())?), width, height)?.to_tensor()
}

/// Reads a PNG or JPEG file as a mask `[1, 1, height, width]`, f32, in `[0, 1]`: 1 where it is white.
///
/// Colours count by their luma, `0.299 R + 0.587 G + 0.114 B` in 8 bits, as in diffusers' mask processor; what is wholly
/// transparent is black whatever colour the file hides there. All else is as in [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_mask(path: impl AsRef<Path>, width: u32, height: u32) -> Result<Tensor> {
    let mut image = open(path.as_ref())?;
    if image.color().has_alpha() {
        let mut rgba = image.into_rgba8();
        for pixel in rgba.pixels_mut().filter(|pixel| pixel.0[3] == 0) {
            pixel.0 = [0; 4];
        }
        image = rgba.into();
    }
    let Rgb8 { pixels, .. } = resized(rgb8(image), width, height)?;
    let luma = |rgb: &[u8]| {
        let sum: u32 =
            rgb.iter().zip([19_595, 38_470, 7_471]).map(|(&c, w)| u32::from(c) * w).sum();
        ((sum + 0x8000) >> 16) as u8
    };
    let grey: Vec<u8> = pixels.chunks_exact(3).map(luma).collect();
    let (width, height) = (i64::from(width), i64::from(height));
    Ok(Tensor::from_slice(&grey).view([1, 1, height, width]).to_kind(Kind::Float) / 255.)
}

/// Reads a PNG or JPEG file as a depth map `[1, 1, H, W]`, f32, in `[0, 1]`, in the size and with all the bits that it
/// has: the luma of its colours, without regard to alpha.
///
/// # Errors
/// As [`read`].
pub fn read_depth(path: impl AsRef<Path>) -> Result<Tensor> {
    let image = open(path.as_ref())?.into_rgb16();
    let (width, height) = image.dimensions();
    let luma = |p: &image::Rgb<u16>| {
        let [r, g, b] = p.0.map(f64::from);
        ((0.299 * r + 0.587 * g + 0.114 * b) / 65_535.) as f32
    };
    let values: Vec<f32> = image.pixels().map(luma).collect();
    Ok(Tensor::from_slice(&values).view([1, 1, i64::from(height), i64::from(width)]))
}

/// Colours in 8 bits: the upper ones of 16, and no alpha.
fn rgb8(image: DynamicImage) -> RgbImage {
    match image.color().bytes_per_pixel() / image.color().channel_count() {
        0 | 1 => image.into_rgb8(),
        _ => {
            let image = image.into_rgb16();
            RgbImage::from_fn(image.width(), image.height(), |x, y| {
                image::Rgb(image.get_pixel(x, y).0.map(|c| (c >> 8) as u8))
            })
        }
    }
}

/// In the size that is asked for.
fn resized(rgb: RgbImage, width: u32, height: u32) -> Result<Rgb8> {
    for (what, value) in [("width", width), ("height", height)] {
        if !(1..=LONGEST_SIDE).contains(&value) {
            return Err(Error::argument(what, format!("1 to {LONGEST_SIDE} pixels"), value));
        }
    }
    let rgb = Rgb8 { width: rgb.width(), height: rgb.height(), pixels: rgb.into_raw() };
    // First across, then down, with 8 bits in between, as Pillow does.
    let across = rgb.resized(width, rgb.height, FilterType::Lanczos3)?;
    across.resized(width, height, FilterType::Lanczos3)
}

/// Width and height of a PNG or JPEG file in pixels, turned as [`read`] turns it.
///
/// # Errors
/// As [`read`].
pub fn size(path: impl AsRef<Path>) -> Result<(u32, u32)> {
    let image = open(path.as_ref())?;
    Ok((image.width(), image.height()))
}

/// Reads the metadata of a PNG file: what [`write_png`] was given as `text`.
///
/// # Errors
/// A file that is missing or not a PNG.
pub fn read_png_text(path: impl AsRef<Path>) -> Result<Vec<(String, String)>> {
    let path = path.as_ref();
    let fail = |e: png::DecodingError| Error::image(path.display(), e);
    let file = BufReader::new(File::open(path).map_err(|e| Error::io(path, e))?);
    let mut reader = png::Decoder::new(file).read_info().map_err(fail)?;
    // Text may also follow the pixels.
    reader.finish().map_err(fail)?;
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().map(|c| (c.keyword.clone(), c.text.clone()));
    let utf8 = info.utf8_text.iter().map(|chunk| {
        let text = chunk.get_text().map_err(fail)?;
        Ok((chunk.keyword.clone(), text))
    });
    plain.map(Ok).chain(utf8).collect()
}

/// Every picture of a batch in 8-bit RGB, as diffusers' image processor makes it.
///
/// ```text
/// pixel = round(255 · clamp(x / 2 + 0.5, 0, 1))        in f32; a tie goes to the even number
/// ```
/// A decoder's output leaves `[-1, 1]` a little; those values are clamped, which is part of the
/// formula.
///
/// # Shapes
/// `image` `[B, 3, H, W]` or `[3, H, W]`.
///
/// # Errors
/// Another shape; NaN or infinity anywhere.
///
/// # Examples
/// ```
/// let grey = tch::Tensor::zeros([1, 3, 2, 2], (tch::Kind::Float, tch::Device::Cpu));
/// let pictures = diffuscope::picture::to_rgb8(&grey)?;
/// assert_eq!(pictures[0].pixels, [128; 12]);
/// # Ok::<(), diffuscope::Error>(())
/// ```
pub fn to_rgb8(image: &Tensor) -> Result<Vec<Rgb8>> {
    let shape = image.size();
    let batched = match shape[..] {
        [3, _, _] => image.unsqueeze(0),
        [_, 3, _, _] => image.shallow_clone(),
        _ => return Err(Error::shape("picture", "[B, 3, H, W] or [3, H, W]", &shape)),
    };
    let (height, width) = (batched.size()[2], batched.size()[3]);
    let longest = i64::from(LONGEST_SIDE);
    if !(1..=longest).contains(&height) || !(1..=longest).contains(&width) {
        return Err(Error::shape("picture", format!("1 to {longest} pixels a side"), &shape));
    }
    let image = batched.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?;
    let finite = image.isfinite();
    if !bool::try_from(finite.all())? {
        let bad = i64::try_from(finite.logical_not().sum(Kind::Int64))?;
        return Err(Error::image(
            "picture",
            format!("{bad} of its {} values are NaN or infinite", image.numel()),
        ));
    }
    let bytes = ((image / 2. + 0.5).clamp(0., 1.) * 255.).round().to_kind(Kind::Uint8);
    (0..bytes.size()[0])
        .map(|b| {
            let rows = bytes.get(b).permute([1, 2, 0]).contiguous().flatten(0, -1);
            Ok(Rgb8 {
                width: width as u32,
                height: height as u32,
                pixels: Vec::<u8>::try_from(rows)?,
            })
        })
        .collect()
}

/// Writes one picture as a PNG file, with `text` as UTF-8 metadata (`iTXt` chunks).
///
/// The file is written whole or not at all.
///
/// # Shapes
/// `image` `[1, 3, H, W]` or `[3, H, W]` in `[-1, 1]`; see [`to_rgb8`].
///
/// # Errors
/// What [`to_rgb8`] refuses; several pictures; a folder that is missing or cannot be written.
pub fn write_png(path: impl AsRef<Path>, image: &Tensor, text: &[(String, String)]) -> Result<()> {
    write_file(path.as_ref(), &one(image)?.to_png(text)?)
}

/// The only picture of a batch of one.
pub(crate) fn one(image: &Tensor) -> Result<Rgb8> {
    if image.dim() == 4 && image.size()[0] != 1 {
        return Err(Error::shape(
            "picture",
            "[1, 3, H, W] or [3, H, W]: one picture",
            &image.size(),
        ));
    }
    let mut pictures = to_rgb8(image)?;
    pictures.pop().ok_or_else(|| Error::shape("picture", "[1, 3, H, W]", &image.size()))
}

/// A whole picture, turned as it says.
fn open(path: &Path) -> Result<DynamicImage> {
    // The format is what the bytes say, whatever the file is called.
    let mut reader = File::open(path)
        .and_then(|file| ImageReader::new(BufReader::new(file)).with_guessed_format())
        .map_err(|e| Error::io(path, e))?;
    let format = reader.format();
    let fail = |e: ImageError| {
        let message = match (&e, format) {
            (ImageError::Limits(limit), _) => match limit.kind() {
                LimitErrorKind::DimensionError | LimitErrorKind::InsufficientMemory => format!(
                    "it is too large: at most {LONGEST_SIDE} pixels a side and 512 MiB are read"
                ),
                _ => e.to_string(),
            },
            (ImageError::IoError(_), Some(format)) => {
                format!("the {format:?} file is cut short or cannot be read ({e})")
            }
            (ImageError::Unsupported(_), Some(format)) => {
                format!("a {format:?} file cannot be read; convert it to PNG or JPEG")
            }
            (_, Some(format)) => format!("the {format:?} file is damaged ({e})"),
            (_, None) => "it is not a picture; PNG and JPEG files can be read".to_owned(),
        };
        Error::image(path.display(), message)
    };
    if format.is_none() {
        return Err(Error::image(
            path.display(),
            "it is not a picture; PNG and JPEG files can be read",
        ));
    }
    let jpeg = check_end(path, format)?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(fail)?;
    let orientation = decoder.orientation().map_err(fail)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(fail)?;
    // The decoder of JPEG fills what is missing with grey.
    if jpeg.is_some_and(|(bytes, end)| goes_on(&bytes, end, &image)) {
        return Err(cut(path, "its data end before its last pixel"));
    }
    image.apply_orientation(orientation);
    Ok(image)
}

fn cut(path: &Path, what: &str) -> Error {
    Error::image(path.display(), format!("the file is cut short: {what}"))
}

/// Refuses a file that does not go on to its end, which decoders do not look for. Returns the bytes of a JPEG, and where
/// its data end.
fn check_end(path: &Path, format: Option<ImageFormat>) -> Result<Option<(Vec<u8>, usize)>> {
    let fail = |e| Error::io(path, e);
    match format {
        Some(ImageFormat::Png) => {
            let file = File::open(path).map_err(fail)?;
            match is_whole_png(BufReader::new(file)).map_err(fail)? {
                true => Ok(None),
                false => Err(cut(path, "it has no last chunk (IEND)")),
            }
        }
        Some(ImageFormat::Jpeg) => {
            let bytes = std::fs::read(path).map_err(fail)?;
            let end = end_of_jpeg(&bytes).ok_or_else(|| cut(path, "it has no end of image"))?;
            Ok(Some((bytes, end)))
        }
        _ => Ok(None),
    }
}

/// Whether a PNG file goes on to its last chunk.
fn is_whole_png(mut file: impl Read + Seek) -> std::io::Result<bool> {
    let length = file.seek(SeekFrom::End(0))?;
    // After the signature: a chunk's length, its name, its data, its checksum.
    let (mut at, mut head) = (8, [0; 8]);
    while at + 12 <= length {
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut head)?;
        let [a, b, c, d, ref name @ ..] = head;
        at += 12 + u64::from(u32::from_be_bytes([a, b, c, d]));
        if name == b"IEND" {
            return Ok(at <= length);
        }
    }
    Ok(false)
}

/// Where the data of a JPEG file end and its end-of-image marker begins, with the 0xFF that may stand before it. Segments
/// are skipped by their lengths, since a thumbnail in one has an end of its own; within a scan, 0xFF stands before 0 or a
/// restart.
fn end_of_jpeg(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    while let Some(&[first, code]) = bytes.get(at..at + 2) {
        match (first, code) {
            (0xff, 0xd9) => {
                let fill = bytes[..at].iter().rev().take_while(|byte| **byte == 0xff).count();
                return Some(at - fill);
            }
            (0xff, 0xff) => at += 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, _) => {
                let &[high, low] = bytes.get(at + 2..at + 4)? else { return None };
                at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
            _ => at += 1,
        }
    }
    None
}

/// Whether a JPEG's decoder would have read on at the `end` of its data: more of them then make another picture.
fn goes_on(bytes: &[u8], end: usize, image: &DynamicImage) -> bool {
    // Anything but 0xFF, which would be a marker, and unlike the zeros that the decoder goes on with.
    let more: Vec<u8> =
        (1..1025u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 & 0xfe).collect();
    let longer = [&bytes[..end], &more, &bytes[end..]].concat();
    let longer = image::load_from_memory_with_format(&longer, ImageFormat::Jpeg);
    !longer.is_ok_and(|longer| longer == *image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn text(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn bytes_follow_the_formula() {
        // Every value where a rounding mistake would show: just below, at and above each tie.
        let mut values: Vec<f32> = (0..=510).map(|i| i as f32 / 255. - 1.).collect();
        let near = values.iter().flat_map(|v| [v - 1e-6, v + 1e-6]).collect::<Vec<_>>();
        values.extend(near);
        values.extend([-1., 1., -1.7, 2.5, 0., -0.]);
        values.resize(values.len().div_ceil(3) * 3, 0.);
        let width = values.len() as i64 / 3;
        let image = Tensor::from_slice(&values).view([3, 1, width]);
        let bytes = &to_rgb8(&image).unwrap()[0];
        assert_eq!((i64::from(bytes.width), bytes.height), (width, 1));
        for (i, value) in values.iter().enumerate() {
            let expected = ((value / 2. + 0.5).clamp(0., 1.) * 255.).round_ties_even() as u8;
            let (channel, x) = (i / width as usize, i % width as usize);
            assert_eq!(bytes.pixels[x * 3 + channel], expected, "{value}");
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let pixels: Vec<u8> = (0..=255).flat_map(|b| [b, 255 - b, b / 2]).collect();
        let rgb = Rgb8 { width: 16, height: 16, pixels };
        assert_eq!(to_rgb8(&rgb.to_tensor().unwrap()).unwrap(), [rgb]);
    }

    #[test]
    fn layout_is_rows_of_rgb() {
        let image = Tensor::from_slice(&[-1f32, 1., -1., -1., 1., 1.]).view([1, 3, 1, 2]);
        assert_eq!(to_rgb8(&image).unwrap()[0].pixels, [0, 0, 255, 255, 0, 255]);
    }

    #[test]
    fn a_batch_is_several_pictures() {
        let batch = Tensor::stack(
            &[
                Tensor::zeros([3, 2, 3], (Kind::Half, Device::Cpu)),
                Tensor::ones([3, 2, 3], (Kind::Half, Device::Cpu)),
            ],
            0,
        );
        let pictures = to_rgb8(&batch).unwrap();
        assert_eq!(pictures.len(), 2);
        assert_eq!((pictures[1].width, pictures[1].height), (3, 2));
        assert!(pictures[1].pixels.iter().all(|b| *b == 255));
        assert!(one(&batch).is_err());
    }

    #[test]
    fn nan_is_an_error() {
        for bad in [f64::NAN, f64::INFINITY] {
            let image = Tensor::zeros([3, 2, 2], (Kind::Float, Device::Cpu));
            let _ = image.get(0).get(0).get(0).fill_(bad);
            let message = to_rgb8(&image).unwrap_err().to_string();
            assert!(message.contains("1 of its 12 values"), "{message}");
        }
        for shape in [vec![4, 2, 2], vec![2, 2], vec![3, 0, 2], vec![1, 1, 3, 2, 2]] {
            let image = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            assert!(to_rgb8(&image).is_err());
        }
    }

    #[test]
    fn metadata_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let given = text(&[
            ("prompt", "a small red star, 小さな 🦀\nsecond line"),
            ("guidance_scale", "7.5"),
            ("empty", ""),
        ]);
        let image = Tensor::rand([1, 3, 4, 5], (Kind::Float, Device::Cpu)) * 2. - 1.;
        write_png(&path, &image, &given).unwrap();
        assert_eq!(read_png_text(&path).unwrap(), given);
        let back = read(&path, 5, 4).unwrap();
        assert_eq!(to_rgb8(&back).unwrap(), to_rgb8(&image).unwrap());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_ne!(mode & 0o044, 0, "others can read the file as far as the umask lets them");
        }
    }

    #[test]
    fn a_bad_key_or_place_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let image = Tensor::zeros([3, 4, 4], (Kind::Float, Device::Cpu));
        let path = folder.path().join("a.png");
        for key in ["", "ключ", "new\nline", &"k".repeat(80)] {
            assert!(write_png(&path, &image, &text(&[(key, "value")])).is_err(), "{key:?}");
        }
        assert!(write_png(folder.path().join("missing/a.png"), &image, &[]).is_err());
        assert!(write_png(folder.path(), &image, &[]).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        write_png(&path, &image, &text(&[("prompt", "nul \0 inside")])).unwrap();
        assert_eq!(read_png_text(&path).unwrap()[0].1, "nul \u{fffd} inside");
    }

    #[test]
    fn reading_resizes_and_drops_alpha() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let transparent = image::RgbaImage::from_pixel(40, 20, image::Rgba([255, 0, 0, 0]));
        transparent.save(&path).unwrap();
        let read_back = to_rgb8(&read(&path, 8, 16).unwrap()).unwrap();
        assert_eq!((read_back[0].width, read_back[0].height), (8, 16));
        assert!(read_back[0].pixels.chunks(3).all(|rgb| rgb == [255, 0, 0]));

        let jpeg = folder.path().join("picture.png");
        image::RgbImage::from_pixel(9, 9, image::Rgb([10, 200, 90]))
            .save_with_format(&jpeg, image::ImageFormat::Jpeg)
            .unwrap();
        let green = to_rgb8(&read(&jpeg, 3, 3).unwrap()).unwrap();
        assert!(green[0].pixels[1].abs_diff(200) < 4, "{:?}", green[0].pixels);
    }

    #[test]
    fn masks_are_luma_and_black_where_nothing_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let values = |image: &image::RgbaImage| {
            image.save(&path).unwrap();
            let mask = read_mask(&path, image.width(), image.height()).unwrap();
            assert_eq!(mask.size(), [1, 1, 1, i64::from(image.width())]);
            Vec::<f32>::try_from(mask.flatten(0, -1) * 255.).unwrap()
        };
        let colours = [
            [255, 255, 255, 255],
            [255, 255, 255, 0],
            [0, 0, 0, 0],
            [255, 255, 255, 90],
            [0, 255, 0, 255],
            [255, 0, 0, 255],
            [0, 0, 255, 255],
        ];
        let strokes = image::RgbaImage::from_fn(7, 1, |x, _| image::Rgba(colours[x as usize]));
        let got: Vec<f32> = values(&strokes).iter().map(|value| value.round()).collect();
        assert_eq!(got, [255., 0., 0., 255., 150., 76., 29.]);
    }

    #[test]
    fn sixteen_bits_are_the_upper_eight_and_all_of_a_depth_map() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        type Grey = image::ImageBuffer<image::Luma<u16>, Vec<u16>>;
        let map = Grey::from_fn(5, 1, |x, _| image::Luma([1000 + 10 * x as u16]));
        map.save(&path).unwrap();
        let depth = Vec::<f32>::try_from(read_depth(&path).unwrap().flatten(0, -1)).unwrap();
        for (x, value) in depth.iter().enumerate() {
            assert!((f64::from(*value) * 65_535. - (1000 + 10 * x) as f64).abs() < 0.01, "{value}");
        }
        Grey::from_pixel(4, 4, image::Luma([0x80ff])).save(&path).unwrap();
        let picture = to_rgb8(&read(&path, 4, 4).unwrap()).unwrap();
        assert!(picture[0].pixels.iter().all(|byte| *byte == 0x80));
    }

    #[test]
    fn a_jpeg_that_is_cut_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        let noise = Tensor::rand([3, 40, 24], (Kind::Float, Device::Cpu)) * 2. - 1.;
        let rgb = one(&noise).unwrap();
        let mut whole = std::io::Cursor::new(Vec::new());
        RgbImage::from_raw(24, 40, rgb.pixels)
            .unwrap()
            .write_to(&mut whole, ImageFormat::Jpeg)
            .unwrap();
        let mut whole = whole.into_inner();
        // A thumbnail in a segment has an end of its own.
        whole.splice(2..2, [0xff, 0xe1, 0, 6, 0xff, 0xd9, 1, 2]);
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path, 8, 8).map_err(|error| error.to_string())
        };
        assert!(open(&whole).is_ok());
        assert!(open(&[&whole[..], &[0; 9]].concat()).is_ok(), "bytes after the end");
        let cuts = [1, 2, 3, 10, 100, whole.len() / 2, whole.len() * 9 / 10, whole.len() - 30];
        for cut in cuts {
            let message = open(&whole[..whole.len() - cut]).unwrap_err();
            assert!(message.contains("cut short") || message.contains("damaged"), "{message}");
        }
        let half = whole.len() / 2;
        let zeroed = [&whole[..half], &vec![0; whole.len() - half]].concat();
        assert!(open(&zeroed).unwrap_err().contains("cut short"));
        // With an end that somebody put there.
        for cut in [4, 10, 100, half, whole.len() * 2 / 3] {
            let ended = [&whole[..whole.len() - cut], &[0xff, 0xd9]].concat();
            let message = open(&ended).unwrap_err();
            assert!(message.contains("cut short") || message.contains("damaged"), "{message}");
        }
        // 0xFF may fill the place before a marker.
        let filled = [&whole[..whole.len() - 2], &[0xff, 0xff, 0xd9]].concat();
        assert!(open(&filled).is_ok());
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let message = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path, 8, 8).unwrap_err().to_string()
        };
        assert!(message(b"not a picture at all").contains("not a picture"));
        assert!(message(b"").contains("not a picture"));
        let webp = message(b"RIFF\x24\0\0\0WEBPVP8 \x18\0\0\0aaaaaaaaaaaa");
        assert!(webp.contains("convert it to PNG or JPEG"), "{webp}");

        let noise = Tensor::rand([3, 64, 64], (Kind::Float, Device::Cpu));
        let png = one(&noise).unwrap().to_png(&[]).unwrap();
        let cut = message(&png[..png.len() / 2]);
        assert!(cut.contains("cut short") || cut.contains("damaged"), "{cut}");
        for cut in [1, 4, 11, 12, 13] {
            let said = message(&png[..png.len() - cut]);
            assert!(said.contains("cut short"), "{said}");
        }
        let mut flipped = png.clone();
        flipped[png.len() / 2] ^= 0x10;
        let damaged = message(&flipped);
        assert!(damaged.contains("damaged") || damaged.contains("cut short"), "{damaged}");

        // A header that promises 60000 × 60000 pixels.
        let mut bomb = png.clone();
        bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        let crc = crc32fast::hash(&bomb[12..29]).to_be_bytes();
        bomb[29..33].copy_from_slice(&crc);
        let large = message(&bomb);
        assert!(large.contains("too large"), "{large}");

        assert!(read(folder.path().join("missing.png"), 8, 8).is_err());
        assert!(read(folder.path(), 8, 8).is_err());
        std::fs::write(&path, &png).unwrap();
        assert!(read(&path, 0, 8).is_err() && read(&path, 8, 20_000).is_err());
    }
}
