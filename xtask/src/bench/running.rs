//! The contestants that are running, by name.

use super::contestant::Contestant;
use super::peers::Programs;
use super::works::Side;
use crate::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Contestants are started when they are first asked.
pub struct Running<'a> {
    programs: &'a Programs<'a>,
    contestants: BTreeMap<String, Contestant>,
    /// What everybody who was started says of what computes.
    pub versions: BTreeMap<String, Value>,
}

impl<'a> Running<'a> {
    pub fn new(programs: &'a Programs<'a>) -> Self {
        Self { programs, contestants: BTreeMap::new(), versions: BTreeMap::new() }
    }

    /// A contestant's answer. One that dies is started again by the next order.
    pub fn ask(&mut self, side: &Side, order: &Value) -> Result<Value> {
        if !self.contestants.contains_key(&side.name) {
            let started = self.start(side)?;
            self.contestants.insert(side.name.clone(), started);
        }
        let contestant = self.contestants.get_mut(&side.name).ok_or("it is gone")?;
        let answer = contestant.ask(order);
        if contestant.is_dead() {
            self.contestants.remove(&side.name);
        }
        answer
    }

    fn start(&mut self, side: &Side) -> Result<Contestant> {
        let logs = self.programs.project.lab("bench/logs");
        std::fs::create_dir_all(&logs)
            .map_err(|error| format!("could not make {}: {error}", logs.display()))?;
        let log = logs.join(format!("{}.log", side.name.replace([' ', ','], "-")));
        let mut contestant = Contestant::start(&mut self.programs.command(side.peer)?, &log)?;
        let said = contestant.ask(&json!({ "do": "hello" }))?;
        let versions = said["versions"].as_object().cloned().unwrap_or_default();
        self.versions.extend(versions);
        Ok(contestant)
    }

    /// Ends all of them.
    pub fn end(&mut self) {
        self.contestants.clear();
    }
}
