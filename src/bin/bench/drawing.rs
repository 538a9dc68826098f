//! The figures of a report: how long the others take, and how the cost grows.

use std::path::Path;

use diffuscope::plot::{Figure, Panel, figure, panel};
use diffuscope::{Error, Result};
use serde::Deserialize;

/// What a figure needs of `bench.json`.
#[derive(Deserialize)]
struct BenchReport {
    machine: BenchMachine,
    works: Vec<MeasuredWork>,
}

#[derive(Deserialize)]
struct BenchMachine {
    name: String,
    threads: usize,
}

#[derive(Deserialize)]
struct MeasuredWork {
    work: String,
    dtype: String,
    /// For a work of a curve: its name and where on it this is.
    curve: Option<(String, f64)>,
    contestants: Vec<MeasuredSide>,
}

#[derive(Deserialize)]
struct MeasuredSide {
    name: String,
    /// In seconds; none if it did not run.
    median: Option<f64>,
    ratio: Option<RatioSpread>,
}

#[derive(Deserialize, Clone, Copy)]
struct RatioSpread {
    median: f64,
    least: f64,
    most: f64,
}

/// What is written at a logarithmic axis of ratios.
const TICKS: [f64; 16] =
    [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1., 1.5, 2., 3., 5., 10., 20., 50., 100.];
const OURS: &str = "diffuscope";

/// Writes `bench.png`, and `bench-growth.png` if there are curves.
pub fn draw(report: &Path, folder: &Path) -> Result<()> {
    let bytes = std::fs::read(report).map_err(|e| Error::io(report, e))?;
    let read: BenchReport = serde_json::from_slice(&bytes).map_err(|e| Error::config(report, e))?;
    if let Some(figure) = ratios(&read)? {
        figure.save(folder.join("bench.png"))?;
    }
    if let Some(figure) = growth(&read)? {
        figure.save(folder.join("bench-growth.png"))?;
    }
    Ok(())
}

fn dtypes(works: &[&MeasuredWork]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for work in works {
        if !all.contains(&work.dtype) {
            all.push(work.dtype.clone());
        }
    }
    all
}

/// The names of all contestants but ours, in order.
fn others(works: &[&MeasuredWork]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for side in works.iter().flat_map(|work| &work.contestants) {
        if side.name != OURS && side.ratio.is_some() && !all.contains(&side.name) {
            all.push(side.name.clone());
        }
    }
    all
}

/// A row for every work: how many times as long as ours the others take.
fn ratios(report: &BenchReport) -> Result<Option<Figure>> {
    let works: Vec<&MeasuredWork> =
        report.works.iter().filter(|work| work.curve.is_none()).collect();
    let names = others(&works);
    if names.is_empty() {
        return Ok(None);
    }
    let spreads = works.iter().flat_map(|work| &work.contestants).filter_map(|side| side.ratio);
    let (low, high) = spreads
        .fold((1f64, 1f64), |(low, high), ratio| (low.min(ratio.least), high.max(ratio.most)));
    let range = (low / 1.1, high * 1.1);
    let panels = dtypes(&works).into_iter().map(|dtype| {
        let rows: Vec<&MeasuredWork> =
            works.iter().copied().filter(|work| work.dtype == dtype).collect();
        let top = rows.len() as f64 + 0.5;
        let names_of_rows =
            rows.iter().enumerate().map(|(i, work)| (height(&rows, i), &*work.work));
        let ticks = TICKS.into_iter().filter(|at| (range.0..range.1).contains(at));
        let chart = panel(dtype)
            .x("times as long as diffuscope; the thin lines are all rounds")
            .x_range(range.0, range.1)
            .x_ticks(ticks.map(|at| (at, at.to_string())))
            .y_range(0.5, top)
            .y_ticks(names_of_rows)
            .log_x()
            .line(OURS, vec![(1., 0.5), (1., top)])
            .color(0);
        names.iter().enumerate().fold(chart, |chart, (i, name)| marks(chart, &rows, name, i + 1))
    });
    let BenchMachine { name, threads } = &report.machine;
    let title = format!("Side by side on {name}, {threads} threads");
    figure(title, panels.collect()).map(Some)
}

/// The rows go from the top down.
fn height(rows: &[&MeasuredWork], i: usize) -> f64 {
    (rows.len() - i) as f64
}

/// A contestant's medians, and from its least to its largest ratio.
fn marks(chart: Panel, rows: &[&MeasuredWork], name: &str, color: usize) -> Panel {
    let ratio = |work: &MeasuredWork| {
        work.contestants.iter().find(|side| side.name == name).and_then(|side| side.ratio)
    };
    let places: Vec<(f64, RatioSpread)> = rows
        .iter()
        .enumerate()
        .filter_map(|(i, work)| Some((height(rows, i), ratio(work)?)))
        .collect();
    if places.is_empty() {
        return chart;
    }
    let chart = places.iter().fold(chart, |chart, (y, ratio)| {
        chart.thin_line(vec![(ratio.least, *y), (ratio.most, *y)]).color(color)
    });
    let medians = places.iter().map(|(y, ratio)| (ratio.median, *y)).collect();
    chart.points(name, medians).color(color)
}

/// Cost against size, a panel for every curve and dtype.
fn growth(report: &BenchReport) -> Result<Option<Figure>> {
    let works: Vec<&MeasuredWork> =
        report.works.iter().filter(|work| work.curve.is_some()).collect();
    let mut panels: Vec<Panel> = Vec::new();
    let mut curves: Vec<(String, String)> = Vec::new();
    for work in &works {
        let Some((curve, _)) = &work.curve else { continue };
        let key = (curve.clone(), work.dtype.clone());
        if !curves.contains(&key) {
            curves.push(key);
        }
    }
    for (curve, dtype) in curves {
        let on: Vec<(f64, &MeasuredWork)> = works
            .iter()
            .filter(|work| work.dtype == dtype)
            .filter_map(|work| Some((work.curve.as_ref().filter(|of| of.0 == curve)?.1, *work)))
            .collect();
        let (x, title) = match curve.as_str() {
            "batch" => ("samples at once", format!("A pass of the U-Net, {dtype}")),
            _ => ("side of the latents", format!("A pass of the U-Net, {dtype}")),
        };
        let ticks = on.iter().map(|(at, _)| (*at, at.to_string()));
        let chart = panel(title).x(x).y("milliseconds").log_x().log_y().x_ticks(ticks);
        let names = [vec![OURS.to_owned()], others(&works)].concat();
        let chart = names.iter().enumerate().fold(chart, |chart, (color, name)| {
            let points: Vec<(f64, f64)> = on
                .iter()
                .filter_map(|(at, work)| {
                    let side = work.contestants.iter().find(|side| side.name == *name)?;
                    Some((*at, side.median? * 1e3))
                })
                .collect();
            match points.is_empty() {
                true => chart,
                false => chart.dotted_line(name, points).color(color),
            }
        });
        panels.push(chart);
    }
    match panels.is_empty() {
        true => Ok(None),
        false => figure("How the cost of the embedded model grows", panels).map(Some),
    }
}
