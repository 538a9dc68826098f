//! A contestant: a process that answers lines of JSON.

use crate::Result;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A process that is asked.
pub struct Contestant {
    child: Child,
    /// Open while it may be asked: it ends when this is closed.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Contestant {
    /// Starts it; what it says beside its answers goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let said = |error| format!("could not write {}: {error}", log.display());
        let errors = File::create(log).map_err(said)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child =
            command.spawn().map_err(|error| format!("could not start {program}: {error}"))?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{program} has no standard input and output"));
        };
        let (orders, answers) = (Some(orders), BufReader::new(answers));
        Ok(Self { child, orders, answers, log: log.to_owned() })
    }

    /// Its answer to an order, or why there is none.
    pub fn ask(&mut self, order: &Value) -> Result<Value> {
        let mut line = String::new();
        let mut talk = || {
            let Some(orders) = &mut self.orders else { return Ok(0) };
            writeln!(orders, "{order}")?;
            orders.flush()?;
            self.answers.read_line(&mut line)
        };
        match talk() {
            Ok(read) if read > 0 => (),
            _ => return Err(self.death()),
        }
        let answer: Value = serde_json::from_str(&line)
            .map_err(|error| format!("it answered with no JSON: {error}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        self.orders.is_none()
    }

    /// How it ended, and the last thing that it said.
    fn death(&mut self) -> String {
        self.orders = None;
        let how = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        match said.lines().rfind(|line| !line.trim().is_empty()) {
            Some(last) => format!("it died, {how}: {}", last.trim()),
            None => format!("it died, {how}"),
        }
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shell(script: &str, folder: &Path) -> Contestant {
        let mut command = Command::new("sh");
        Contestant::start(command.args(["-c", script]), &folder.join("log")).unwrap()
    }

    #[test]
    fn a_line_asks_and_a_line_answers() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"while read line; do echo "{\"heard\": $line}"; done"#;
        let mut echo = shell(script, folder.path());
        for n in 0..3 {
            assert_eq!(echo.ask(&json!(n)).unwrap(), json!({ "heard": n }));
        }
        let mut refuses = shell(r#"read line; echo '{"error": "no bf16"}'"#, folder.path());
        assert_eq!(refuses.ask(&json!({})).unwrap_err(), "no bf16");
    }

    #[test]
    fn a_contestant_that_dies_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut dies =
            shell("read line; echo first >&2; echo 'no memory' >&2; exit 3", folder.path());
        let death = dies.ask(&json!({})).unwrap_err();
        assert!(death.contains("exit status: 3") && death.ends_with("no memory"), "{death}");
        // And it stays dead.
        assert!(dies.is_dead());
        assert!(dies.ask(&json!({})).unwrap_err().starts_with("it died"));
        let mut killed = shell("kill -9 $$", folder.path());
        assert!(killed.ask(&json!({})).unwrap_err().contains("signal: 9"));
        let mut babbles = shell("read line; echo hello", folder.path());
        assert!(babbles.ask(&json!({})).unwrap_err().contains("no JSON"));
        let missing =
            Contestant::start(&mut Command::new("/no/program"), &folder.path().join("log"));
        assert!(missing.err().unwrap().contains("/no/program"));
    }
}
