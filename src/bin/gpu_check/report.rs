//! All that was checked, as JSON.

use std::path::Path;

use diffuscope::write_file::write_file;
use diffuscope::{Error, Result};
use serde::Serialize;

use crate::machine::MachineFacts;
use crate::outcome::{CheckedItem, Verdict};

#[derive(Debug, Serialize)]
pub struct GpuReport {
    machine: MachineFacts,
    passed: usize,
    pub failed: usize,
    not_run: usize,
    checks: Vec<CheckedItem>,
}

impl GpuReport {
    pub fn new(machine: MachineFacts, checks: Vec<CheckedItem>) -> Self {
        let count = |verdict| checks.iter().filter(|item| item.verdict == verdict).count();
        let (passed, failed) = (count(Verdict::Passed), count(Verdict::Failed));
        Self { machine, passed, failed, not_run: count(Verdict::NotRun), checks }
    }

    pub fn summary(&self) -> String {
        let Self { passed, failed, not_run, .. } = self;
        let seconds: f64 = self.checks.iter().map(|item| item.seconds).sum();
        format!("{passed} passed, {failed} failed, {not_run} not run here, in {seconds:.0} s")
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::config(path, e))?;
        write_file(path, format!("{text}\n").as_bytes())
    }
}
