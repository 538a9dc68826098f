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

#[derive(Deserialize)]
struct RatioSpread {
    median: f64,
}

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
    let panels = dtypes(&works).into_iter().map(|dtype| {
        let rows: Vec<&&MeasuredWork> = works.iter().filter(|work| work.dtype == dtype).collect();
        let height = |i: usize| (rows.len() - i) as f64;
        let ticks = rows.iter().enumerate().map(|(i, work)| (height(i), work.work.clone()));
        let chart = panel(dtype.clone())
            .x("times as long as diffuscope, 1 = the same")
            .y_ticks(ticks)
            .y_range(0.5, rows.len() as f64 + 0.5)
            .log_x();
        names.iter().enumerate().fold(chart, |chart, (color, name)| {
            let of_row = |(i, work): (usize, &&&MeasuredWork)| {
                let side = work.contestants.iter().find(|side| side.name == *name)?;
                Some((side.ratio.as_ref()?.median, height(i)))
            };
            let points: Vec<_> = rows.iter().enumerate().filter_map(of_row).collect();
            match points.is_empty() {
                true => chart,
                false => chart.points(name, points).color(color),
            }
        })
    });
    let BenchMachine { name, threads } = &report.machine;
    let title = format!("Side by side on {name}, {threads} threads");
    figure(title, panels.collect()).map(Some)
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
