//! Reads the numbers that `make.py` wrote, and compares.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};

use diffuscope::tensor_file::TensorFile;
use tch::{Kind, Tensor};

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub fn open(name: &str) -> TensorFile {
    TensorFile::open(path(&format!("{name}.safetensors"))).unwrap()
}

/// The folders of one kind of network, with their names.
pub fn folders(kind: &str) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(path(kind)).unwrap();
    let mut all: Vec<(String, PathBuf)> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .collect();
    all.sort();
    all
}

/// What the reference's network in this folder was given, and what it made of it.
pub fn numbers(folder: &Path) -> TensorFile {
    TensorFile::open(folder.join("golden.safetensors")).unwrap()
}

/// The largest difference of two elements, as a share of the largest magnitude that is expected.
pub fn gap(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.size(), expected.size());
    let (got, expected) = (got.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let largest = expected.abs().max().double_value(&[]);
    let difference = (got - expected).abs().max().double_value(&[]);
    if difference == 0. { 0. } else { difference / largest }
}

/// The worst gap of many comparisons, each of which must stay within `tolerance`.
pub struct Worst {
    pub tolerance: f64,
    gap: f64,
    count: usize,
}

impl Worst {
    pub fn within(tolerance: f64) -> Self {
        Self { tolerance, gap: 0., count: 0 }
    }

    pub fn compare(&mut self, name: &str, got: &Tensor, expected: &Tensor) {
        let gap = gap(got, expected);
        // Also false for NaN.
        assert!(gap <= self.tolerance, "{name}: {gap:e} apart, allowed {:e}", self.tolerance);
        self.gap = self.gap.max(gap);
        self.count += 1;
    }

    /// Says how close it was, and that there was something to compare.
    pub fn finish(self, what: &str) {
        assert!(self.count > 0, "no golden numbers for {what}");
        println!("{what}: {} comparisons, at most {:.1e} apart", self.count, self.gap);
    }
}
