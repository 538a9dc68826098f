//! The page as one document: the component, its data and its pictures.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::atlas::{Atlas, atlases, in_html, usual};
use super::axes::ChartAxes;
use super::numbers::{NumberFormat, least_bytes, pack, parts};
use super::recording::{DecodeWith, Recording, scale_label};
use super::replay::making;
use super::still::still;
use crate::device::in_f64_on_cpu;
use crate::measure::{LatentRgb, angle, latent_rgb, norm};
use crate::notebook::escaped::escaped;
use crate::notebook::look::{Look, Looks, shows};
use crate::pipeline::{Making, Trace};
use crate::plot::theme;
use crate::sampler::{Clip, Coefficients, PlannedStep};
use crate::write_file::write_file;
use crate::{Error, Result};

/// The largest output of a cell, in bytes.
pub const CELL_LIMIT: usize = 2_000_000;
/// The largest page that is written unless more is asked for.
pub const FILE_LIMIT: usize = 8_000_000;
/// The largest page.
pub const FULL_LIMIT: usize = 25_000_000;

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// In the order in which they use each other.
const MODULES: [&str; 5] = [
    include_str!("page/engine.js"),
    include_str!("page/source.js"),
    include_str!("page/drawing.js"),
    include_str!("page/instruments.js"),
    include_str!("page/app.js"),
];

/// An interactive page. It shows itself when it ends a notebook cell.
pub struct Page {
    html: String,
    still: Vec<u8>,
    text: String,
    notes: Vec<String>,
}

shows!(Page);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kilobytes = self.html.len().div_ceil(1000);
        write!(f, "Page of {kilobytes} kB: {}", self.text.chars().take(200).collect::<String>())
    }
}

impl Page {
    /// The document: it needs nothing beside it, and no network.
    pub fn html(&self) -> &str {
        &self.html
    }

    /// What a reader should know: the pictures that were left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the page, whole or not at all.
    ///
    /// # Errors
    /// A folder that is missing or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_file(path, self.html.as_bytes())
    }

    /// The page as a cell shows it: a still picture, which a notebook that is not trusted keeps, and a frame, whose script
    /// hides the picture.
    ///
    /// # Errors
    /// More than [`CELL_LIMIT`].
    pub fn cell_html(&self) -> Result<String> {
        let (still, alt) = (STANDARD.encode(&self.still), escaped(&self.text));
        // In an attribute of double quotes these two have to be escaped, and nothing else.
        let page = self.html.replace('&', "&amp;").replace('"', "&quot;");
        let html = format!(
            "<img src=\"data:image/png;base64,{still}\" alt=\"{alt}\">\
             <iframe srcdoc=\"{page}\" title=\"{alt}\" loading=\"lazy\" \
             style=\"width:100%;height:860px;border:0\"></iframe>"
        );
        if html.len() > CELL_LIMIT {
            let todo = "save it as a file, or trace fewer pictures or steps";
            let expected = format!("at most {CELL_LIMIT} bytes, which a notebook shows");
            return Err(Error::argument("page in a cell", expected, html.len()).hint(todo));
        }
        Ok(html)
    }
}

impl Looks for Page {
    fn look(&self) -> Result<Look> {
        Ok(Look::html(self.cell_html()?, self.text.clone()))
    }
}

/// The size of the component alone, as every page carries it: HTML, CSS and modules, in bytes.
pub fn component_bytes() -> usize {
    HTML.len() + style().len() + script().len()
}

/// Lines without their indentation and without lines that are comments.
fn dense(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules as one: each stands alone as a file, so what they import from each other is above them here.
fn script() -> String {
    let own = |line: &&str| !line.starts_with("import ");
    let bare = |line: &str| line.strip_prefix("export ").unwrap_or(line).to_owned();
    let all =
        MODULES.map(|module| module.lines().filter(own).map(bare).collect::<Vec<_>>().join("\n"));
    dense(&all.join("\n"))
}

/// The style with the colours of the project's figures.
fn style() -> String {
    let rgb = |[r, g, b]: theme::Color| format!("#{r:02x}{g:02x}{b:02x}");
    let named = [
        ("card", theme::CARD),
        ("edge", theme::EDGE),
        ("ink", theme::INK),
        ("soft", theme::SOFT_INK),
        ("grid", theme::GRID),
        ("uncond", theme::series(0)),
        ("cond", theme::series(1)),
        ("difference", theme::series(3)),
    ];
    let colors = named.map(|(name, color)| format!("--{name}:{};", rgb(color)));
    dense(&STYLE.replace("/*colors*/", &colors.concat()))
}

#[derive(Serialize)]
struct Side {
    prompt: String,
    tokens: Vec<String>,
    /// The runs, a list of scales for every seed.
    seeds: Vec<String>,
}

#[derive(Serialize)]
struct Run {
    side: usize,
    seed: usize,
    scale: usize,
    /// The guidance scale of every step.
    scales: Vec<f64>,
    format: NumberFormat,
    has: Vec<u8>,
    /// Where its numbers begin.
    offset: usize,
    residual: f64,
    /// Where the picture was drawn anew, 1 a cell; none for everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<Vec<u8>>,
    /// Where its attention begins, in the bytes of the attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<usize>,
}

/// Everything but the pictures, with the sizes counted.
struct PageContents {
    data: Value,
    numbers: Vec<u8>,
    attention: Vec<u8>,
    /// By the name of its place in the document.
    charts: Vec<(String, String)>,
    title: String,
    still: Vec<u8>,
}

impl Recording {
    /// The page, of at most `limit` bytes. `decode` turns latents into pictures, of which as many are shown as fit; the
    /// page says which.
    ///
    /// # Errors
    /// Numbers that do not fit into the limit without any picture; what `decode` refuses.
    pub fn page(&self, limit: usize, decode: Option<&DecodeWith<'_>>) -> Result<Page> {
        assemble(self, limit, decode)
    }
}

/// Builds the page within its limit.
fn assemble(recording: &Recording, limit: usize, decode: Option<&DecodeWith<'_>>) -> Result<Page> {
    let least: usize = recording.traces.iter().map(least_bytes).sum::<Result<usize>>()?;
    let fixed = component_bytes() + in_html(least, 0);
    if fixed > limit {
        return Err(too_large(fixed, limit));
    }
    let mut contents = contents(recording)?;
    let (mut pictures, mut notes) = (vec![], vec![]);
    results(recording, &mut pictures)?;
    let bare = document(&contents, &pictures).len() + 2000;
    if let Some(decode) = decode {
        let (more, said) = atlases(recording, limit.saturating_sub(bare), decode)?;
        pictures.extend(more);
        notes.extend(said);
    }
    contents.data["linear"] = linear(recording)?;
    contents.data["atlases"] = json!(pictures);
    contents.data["decoder"] = json!(decode.is_some());
    let of_traces = recording.traces.iter().flat_map(|trace| &trace.notes);
    let mut said: Vec<&String> = Vec::new();
    of_traces.chain(&notes).for_each(|note| {
        if !said.contains(&note) {
            said.push(note)
        }
    });
    contents.data["notes"] = json!(said);
    let html = document(&contents, &pictures);
    if html.len() > limit {
        return Err(too_large(html.len(), limit));
    }
    Ok(Page { html, still: contents.still, text: contents.title, notes })
}

fn too_large(bytes: usize, limit: usize) -> Error {
    let megabytes = |bytes: usize| format!("{:.1} MB", bytes as f64 / 1e6);
    Error::argument("page", format!("at most {}", megabytes(limit)), megabytes(bytes))
        .hint("take fewer guidance scales, seeds or steps, or allow a larger page (--full)")
}

/// The results as one sheet a run: they are there without a decoder. Of a run that was stopped it is the picture predicted
/// there.
fn results(recording: &Recording, pictures: &mut Vec<Atlas>) -> Result<()> {
    for (k, trace) in recording.traces.iter().enumerate() {
        let images = crate::picture::to_rgb8(&trace.image)?;
        let what = if is_complete(trace)? { "next" } else { "x0" };
        for (b, image) in images.iter().enumerate() {
            let (run, steps) = (k * images.len() + b, vec![trace.len() - 1]);
            let png = image.to_png(&[])?;
            pictures.push(Atlas { run, what, at: None, steps, columns: 1, png });
        }
    }
    Ok(())
}

/// Whether all steps were taken.
fn is_complete(trace: &Trace) -> Result<bool> {
    Ok(trace.len() == making(trace)?.plan.steps.len())
}

/// The linear map from latents to colours, fitted on the results.
fn linear(recording: &Recording) -> Result<Value> {
    let (mut latents, mut images) = (Vec::new(), Vec::new());
    for trace in &recording.traces {
        latents.push(match is_complete(trace)? {
            true => trace.latents.shallow_clone(),
            false => trace.x_0.f_get(trace.len() as i64 - 1)?,
        });
        images.push(&trace.image);
    }
    let LatentRgb { weights, bias, r_squared } =
        latent_rgb(&Tensor::f_cat(&latents, 0)?, &Tensor::f_cat(&images, 0)?)?;
    let share = r_squared.is_finite().then_some(r_squared);
    Ok(json!({ "weights": weights, "bias": bias, "r2": share }))
}

/// All that the page needs beside its pictures.
fn contents(recording: &Recording) -> Result<PageContents> {
    let first = &recording.traces[0];
    let made = making(first)?;
    let sides = sides(recording, made);
    let (mut runs, mut numbers, mut attention) = (Vec::new(), Vec::new(), Vec::new());
    for (k, trace) in recording.traces.iter().enumerate() {
        let of = making(trace)?;
        let packed = pack(trace)?;
        for (b, picture) in packed.pictures.into_iter().enumerate() {
            let side = sides.iter().position(|side| side.prompt == of.prompts[b]).unwrap_or(0);
            let before = of.prompts[..b].iter().filter(|prompt| **prompt == of.prompts[b]).count();
            let n = of.plan.num_inference_steps;
            let scale_at = |i: usize| of.guidance.scale_at(of.plan.step_of(i), n);
            let maps = recording.attention.get(k).map(|maps| maps.bytes(b)).transpose()?;
            runs.push(Run {
                side,
                seed: before,
                scale: k,
                scales: (0..trace.len()).map(scale_at).collect(),
                format: packed.format,
                has: parts(trace)?,
                offset: numbers.len(),
                residual: picture.residual,
                mask: mask(of, b)?,
                attention: maps.is_some().then_some(attention.len()),
            });
            numbers.extend(picture.bytes);
            attention.extend(maps.unwrap_or_default());
        }
    }
    let timesteps = Vec::<f64>::try_from(in_f64_on_cpu(&first.timesteps)?)?;
    let latents = first.latents.size();
    let maps = recording.attention.iter().map(|maps| {
        let size = maps.maps.size();
        json!({ "tokens": size[2], "size": &size[3..], "largest": maps.largest })
    });
    let data = json!({
        "latents": &latents[1..],
        "picture": &first.image.size()[2..],
        "prediction": first.prediction,
        "clip": clip(made.plan.clip),
        "keeps_noise": made.plan.clip == Clip::Off || made.plan.sampler.method.keeps_noise_when_clipped,
        "rule": rule(made),
        "once": first.output_uncond.iter().all(Option::is_none) && made.guidance == 1.0.into(),
        "steps": made.plan.steps.iter().take(first.len()).map(step).collect::<Vec<_>>(),
        "sides": sides,
        "usual": usual(recording),
        "scales": recording.traces.iter().map(scale_label).collect::<Vec<_>>(),
        "runs": runs,
        "colors": diverging(),
        "maps": maps.collect::<Vec<_>>(),
        "about": about(recording, made),
    });
    let (charts, title) = (charts(recording, &timesteps)?, title(recording));
    Ok(PageContents { data, numbers, attention, charts, title, still: still(recording)? })
}

fn title(recording: &Recording) -> String {
    let said = |prompt: &String| match prompt.trim() {
        "" => "(no text)".to_owned(),
        prompt => format!("“{prompt}”"),
    };
    let prompts: Vec<String> = recording.sides().iter().map(said).collect();
    format!("{}, step by step", prompts.join(" and "))
}

/// The prompts with their tokens and seeds.
fn sides(recording: &Recording, made: &Making) -> Vec<Side> {
    let of = |prompt: String| {
        let pictures = made.prompts.iter().enumerate().filter(|(_, other)| **other == prompt);
        let pictures: Vec<usize> = pictures.map(|(b, _)| b).collect();
        let encoding = pictures.first().and_then(|&b| made.encodings.get(b));
        let tokens = encoding.map(|e| e.tokens[..=e.text_end()].to_vec()).unwrap_or_default();
        let seeds = pictures.iter().map(|&b| made.seeds[b].to_string()).collect();
        Side { prompt, tokens, seeds }
    };
    recording.sides().into_iter().map(of).collect()
}

fn step(planned: &PlannedStep) -> Value {
    let of = |c: &Coefficients| c.by_evaluation().map(|e| [e.of_x_0, e.of_noise_pred, e.of_x_t]);
    let (at, next) = (planned.position, planned.next);
    json!({
        "t": at.t,
        "step": planned.step,
        "rates": [at.signal_rate, at.noise_rate],
        "next": [next.signal_rate, next.noise_rate],
        "of": of(&planned.coefficients),
        "fresh": planned.coefficients.of_noise,
        "correction": planned.correction.as_ref().map(of),
        "forget": planned.forget,
    })
}

/// JSON has no infinity: it is null.
fn bound(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn clip(clip: Clip) -> Value {
    match clip {
        Clip::Off => Value::Null,
        Clip::Range(range) => json!({ "range": bound(range) }),
        Clip::Dynamic { ratio, max } => json!({ "ratio": ratio, "max": bound(max) }),
    }
}

fn rule(made: &Making) -> Value {
    let projection = made.guidance.projection.map(
        |p| json!({ "eta": p.eta, "threshold": bound(p.norm_threshold), "momentum": p.momentum }),
    );
    json!({ "rescale": made.guidance.rescale, "projection": projection, "interval": made.guidance.interval })
}

/// Where picture `b` was drawn anew.
fn mask(made: &Making, b: usize) -> Result<Option<Vec<u8>>> {
    let Some(mask) = &made.mask else { return Ok(None) };
    let own = if mask.size()[0] == 1 { 0 } else { b as i64 };
    let whole = mask.f_select(0, own)?.f_ge(1.)?.f_to_kind(Kind::Uint8)?;
    Ok(Some(Vec::try_from(whole.f_contiguous()?.f_flatten(0, -1)?)?))
}

/// The colours from -1 to 1, as hexadecimal digits.
fn diverging() -> String {
    let mut text = String::new();
    for i in 0..=128 {
        let [r, g, b] = theme::diverging(f64::from(i) / 64. - 1.);
        let _ = write!(text, "{r:02x}{g:02x}{b:02x}");
    }
    text
}

/// What it was made with: what the caller says first.
fn about(recording: &Recording, made: &Making) -> Vec<(String, String)> {
    let steps = match made.plan.steps.len() {
        n if n == made.plan.num_inference_steps => n.to_string(),
        n => format!("{} ({n} evaluations of the network)", made.plan.num_inference_steps),
    };
    let mut about = recording.about.clone();
    let mut add = |name: &str, value: String| about.push((name.to_owned(), value));
    let seeds: BTreeSet<i64> = made.seeds.iter().copied().collect();
    add("Seeds", seeds.iter().map(i64::to_string).collect::<Vec<_>>().join(", "));
    add("Sampler", made.plan.sampler.to_string());
    add("Steps", steps);
    add("Guidance", recording.traces.iter().map(scale_label).collect::<Vec<_>>().join(", "));
    if let Some((from, to)) = made.guidance.interval {
        add("Guided part of the steps", format!("{from} to {to}"));
    }
    if made.guidance.rescale != 0. {
        add("Guidance rescale", made.guidance.rescale.to_string());
    }
    if let Some(projection) = made.guidance.projection {
        add("Projected guidance", format!("{projection:?}"));
    }
    if !made.negative_prompt.is_empty() {
        add("Negative prompt", made.negative_prompt.clone());
    }
    add("Software", concat!("diffuscope ", env!("CARGO_PKG_VERSION")).to_owned());
    about
}

/// The axes of all charts, wide enough for every run.
fn charts(recording: &Recording, timesteps: &[f64]) -> Result<Vec<(String, String)>> {
    let steps = &making(&recording.traces[0])?.plan.steps[..timesteps.len()];
    let snr = steps.iter().map(|s| 2. * (s.position.signal_rate / s.position.noise_rate).log10());
    let (low, high) = snr.fold((0f64, 0f64), |(low, high), v| (low.min(v), high.max(v)));
    let (mut longest, mut widest) = (1f64, 1f64);
    for trace in &recording.traces {
        let trace = trace.guided_steps()?;
        if trace.is_empty() {
            continue;
        }
        let (uncond, cond) = (trace.noise_uncond()?, trace.noise_cond()?);
        let most = |x: &Tensor| x.nan_to_num(0., None::<f64>, None::<f64>).max().double_value(&[]);
        longest = longest.max(most(&norm(&uncond)?)).max(most(&norm(&cond)?));
        longest = longest.max(most(&norm(&(&cond - &uncond))?));
        widest = widest.max(most(&angle(&uncond, &cond)?));
    }
    let charts = [
        ("alpha", (0., 1.), false),
        ("snr", (low.max(-12.), high.min(12.)), true),
        ("norms", (0., longest * 1.08), false),
        ("angle", (0., (widest * 1.08).min(180.)), false),
    ];
    let svg =
        |(id, range, log)| (format!("chart-{id}"), ChartAxes { id, range, log, timesteps }.svg());
    Ok(charts.map(svg).into())
}

/// The whole document.
fn document(contents: &PageContents, pictures: &[Atlas]) -> String {
    let still = format!(
        "<img src=\"data:image/png;base64,{}\" alt=\"{}\">",
        STANDARD.encode(&contents.still),
        escaped(&contents.title)
    );
    // Within a script only its own end could end it.
    let data = contents.data.to_string().replace('<', "\\u003c");
    let mut blocks = format!("<script type=\"application/json\" id=\"data\">{data}</script>");
    let bytes = |id: &str, bytes: &[u8]| {
        let body = STANDARD.encode(bytes);
        format!("<script type=\"application/base64\" id=\"{id}\">{body}</script>")
    };
    blocks += &bytes("numbers", &contents.numbers);
    blocks += &bytes("attention", &contents.attention);
    for (i, atlas) in pictures.iter().enumerate() {
        blocks += &bytes(&format!("atlas-{i}"), &atlas.png);
    }
    let mut html = String::with_capacity(HTML.len() + blocks.len() + 100_000);
    let filled = [
        ("title", escaped(&contents.title)),
        ("style", style()),
        ("still", still),
        ("blocks", blocks),
        ("script", script()),
    ];
    let charts = contents.charts.iter().map(|(name, svg)| (name.as_str(), svg.as_str()));
    let filled: Vec<(&str, &str)> =
        filled.iter().map(|(name, text)| (*name, text.as_str())).chain(charts).collect();
    let mut rest = HTML;
    // One pass, so that nothing that is filled in is searched.
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        html += before;
        html += filled.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text);
        rest = after;
    }
    html + rest
}
