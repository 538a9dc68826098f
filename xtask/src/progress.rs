//! Set-up, as a person reads it: a line a step, and all that the programs print in a log.

use crate::Result;
use crate::project::Project;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a failure shows of its log.
const LAST: usize = 20;
const TICK: Duration = Duration::from_millis(200);
const SPINNER: [char; 4] = ['|', '/', '-', '\\'];
const INTERRUPTED: &str =
    "interrupted; run this again: what is done stays, and the rest goes on from here";

/// A step while it is under way.
pub struct Progress {
    heading: String,
    expected: Duration,
    started: Instant,
    terminal: bool,
    drawn: Instant,
    log: File,
    path: PathBuf,
    last: VecDeque<String>,
    download: Option<Download>,
}

/// Files that grow while something is downloaded.
struct Download {
    folder: PathBuf,
    megabytes: u64,
}

impl Progress {
    /// Starts the log `.lab/logs/NAME.log` and says what begins.
    pub fn start(
        project: &Project,
        name: &str,
        heading: String,
        expected: Duration,
    ) -> Result<Self> {
        let path = project.lab("logs").join(format!("{name}.log"));
        let log = fs::create_dir_all(project.lab("logs"))
            .and_then(|()| File::create(&path))
            .map_err(|error| format!("could not write {}: {error}", path.display()))?;
        watch_for_interrupts();
        let terminal = std::io::stdout().is_terminal();
        if !terminal {
            print!("{heading}, about {} ...", time(expected));
            let _ = std::io::stdout().flush();
        }
        let started = Instant::now();
        let (drawn, last, download) = (started, VecDeque::new(), None);
        Ok(Self { heading, expected, started, terminal, drawn, log, path, last, download })
    }

    /// From here on the line tells how much has arrived in `folder`.
    pub fn downloads(&mut self, folder: PathBuf, megabytes: u64) {
        self.download = Some(Download { folder, megabytes });
    }

    /// Writes a line into the log.
    pub fn note(&mut self, line: &str) {
        // A log that cannot be written is no reason to stop.
        let _ = writeln!(self.log, "{line}");
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }

    /// Runs a command whose output goes to the log; `problem` is the sentence for a failure.
    pub fn run(&mut self, command: &mut Command, problem: &str) -> Result {
        let mut start = || {
            let (reader, writer) = std::io::pipe()?;
            command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
            let child = command.spawn();
            // This process's own ends: while they are open, the output does not end.
            command.stdout(Stdio::null()).stderr(Stdio::null());
            std::io::Result::Ok((child?, reader))
        };
        let started = start();
        let (mut child, reader) = started.map_err(|error| {
            format!("{problem} (`{}`: {error})", command.get_program().to_string_lossy())
        })?;
        match self.follow(&mut child, &lines(reader)) {
            None => Err(INTERRUPTED.into()),
            Some(status) if status.success() => Ok(()),
            Some(status) if status.code().is_none() => {
                Err(format!("{problem}: it was stopped ({status})"))
            }
            Some(_) => Err(problem.to_owned()),
        }
    }

    /// Reads until the child has ended; `None` if a person interrupted it.
    fn follow(&mut self, child: &mut Child, lines: &Receiver<String>) -> Option<ExitStatus> {
        let mut ended = false;
        loop {
            match lines.recv_timeout(TICK) {
                Ok(line) => self.note(&line),
                // What a child leaves behind may keep the pipe open.
                Err(RecvTimeoutError::Timeout) if ended => break,
                Err(RecvTimeoutError::Timeout) => ended = !matches!(child.try_wait(), Ok(None)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if INTERRUPT.load(Ordering::Relaxed) {
                // The terminal has told the child as well; it gets a moment to tidy up.
                let patience = Instant::now();
                while patience.elapsed() < 10 * TICK && matches!(child.try_wait(), Ok(None)) {
                    std::thread::sleep(TICK / 4);
                }
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            self.draw();
        }
        let status = child.wait().ok()?;
        if !status.success() {
            // An interrupted child may be gone before this process has heard of it.
            std::thread::sleep(TICK);
        }
        (!INTERRUPT.load(Ordering::Relaxed)).then_some(status)
    }

    fn draw(&mut self) {
        if !self.terminal || self.drawn.elapsed() < TICK {
            return;
        }
        self.drawn = Instant::now();
        print!("\r\x1b[K{}", self.line());
        let _ = std::io::stdout().flush();
    }

    fn line(&self) -> String {
        let elapsed = self.started.elapsed();
        let spinner = SPINNER[(elapsed.as_millis() / TICK.as_millis()) as usize % SPINNER.len()];
        let times = format!("{} of about {}", time(elapsed), time(self.expected));
        format!("{} {spinner} {times}{}", self.heading, self.arrived())
    }

    fn arrived(&self) -> String {
        let Some(download) = &self.download else { return String::new() };
        match size(&download.folder) / 1_000_000 {
            // Once all has arrived, pip keeps a second copy for a moment.
            0 => String::new(),
            arrived if arrived > download.megabytes => String::new(),
            arrived => format!(", {arrived} of about {} MB", download.megabytes),
        }
    }

    /// Says how the step ended; a failure also shows the end of its log.
    pub fn end(self, result: Result) -> Result {
        UNDER_WAY.store(false, Ordering::Relaxed);
        let took = time(self.started.elapsed());
        let start = if self.terminal { format!("\r\x1b[K{}", self.heading) } else { String::new() };
        let Err(problem) = result else {
            println!("{start} done in {took}");
            return Ok(());
        };
        if problem == INTERRUPTED {
            println!("{start} interrupted after {took}");
            return Err(problem);
        }
        println!("{start} failed after {took}");
        for line in &self.last {
            eprintln!("      {line}");
        }
        Err(format!("{problem}; the whole log is {}", self.path.display()))
    }
}

static INTERRUPT: AtomicBool = AtomicBool::new(false);
static UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// An interrupt ends a step in order; at any other time it ends this program, as ever.
fn watch_for_interrupts() {
    static WATCH: Once = Once::new();
    UNDER_WAY.store(true, Ordering::Relaxed);
    WATCH.call_once(|| {
        // Where the handler cannot be set, an interrupt ends the program without a word.
        let _ = ctrlc::set_handler(|| {
            if !UNDER_WAY.load(Ordering::Relaxed) {
                std::process::exit(130);
            }
            INTERRUPT.store(true, Ordering::Relaxed);
        });
    });
}

/// The lines of a pipe, until its writers have closed it.
fn lines(pipe: PipeReader) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    lines
}

fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn time(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> (tempfile::TempDir, Project) {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { root: folder.path().to_owned() };
        (folder, project)
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_log_holds_all_and_a_failure_the_last_lines() {
        let (_folder, project) = project();
        let hour = Duration::from_secs(3600);
        let mut progress = Progress::start(&project, "fake", "[1/1] Fake".into(), hour).unwrap();
        progress.run(&mut shell("seq 100; echo aside >&2"), "no").unwrap();
        let failed = progress.run(&mut shell("seq 101 130; exit 3"), "seq failed");
        assert_eq!(failed, Err("seq failed".into()));
        let log = fs::read_to_string(project.lab("logs/fake.log")).unwrap();
        assert_eq!(log.lines().count(), 131, "{log}");
        assert!(log.contains("aside"));
        assert_eq!(progress.last.len(), LAST);
        assert_eq!((&*progress.last[0], &*progress.last[LAST - 1]), ("111", "130"));
        let error = progress.end(failed).unwrap_err();
        assert!(error.starts_with("seq failed") && error.ends_with("logs/fake.log"), "{error}");
    }

    #[test]
    fn a_program_that_is_missing_or_was_killed_is_told_so() {
        let (_folder, project) = project();
        let mut progress = Progress::start(&project, "s", "S".into(), TICK).unwrap();
        let missing = progress.run(&mut Command::new("/no/program"), "it failed").unwrap_err();
        assert!(missing.contains("it failed (`/no/program`"), "{missing}");
        let killed = progress.run(&mut shell("kill -9 $$"), "it failed").unwrap_err();
        assert!(killed.contains("it was stopped (signal: 9"), "{killed}");
    }

    #[test]
    fn what_a_child_leaves_behind_is_not_waited_for() {
        let (_folder, project) = project();
        let mut progress = Progress::start(&project, "s", "S".into(), TICK).unwrap();
        progress.run(&mut shell("sleep 30 & echo started"), "no").unwrap();
        assert!(progress.started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn the_line_tells_time_and_what_has_arrived() {
        let (_folder, project) = project();
        let hour = Duration::from_secs(3600);
        let mut progress = Progress::start(&project, "s", "[1/1] S".into(), hour).unwrap();
        assert_eq!(progress.line(), "[1/1] S | 0 s of about 60 min");
        progress.downloads(project.lab("downloads"), 530);
        assert!(!progress.line().contains("MB"));
        fs::create_dir_all(project.lab("downloads/pip-1")).unwrap();
        fs::write(project.lab("downloads/pip-1/torch.whl"), vec![0; 3_000_000]).unwrap();
        assert!(progress.line().ends_with(", 3 of about 530 MB"), "{}", progress.line());
        assert_eq!(time(Duration::from_secs(125)), "2 min 5 s");
    }
}
