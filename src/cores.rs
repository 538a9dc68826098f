//! Sharing the CPU's cores with other programs.
//!
//! libtorch's threads wait for each other by looping, which is quickest on cores of their own. Where two programs share
//! the cores, each loops away the time in which the other one could finish, and both take several times as long.
//! OpenMP's library loops only briefly while a process has more threads than the machine has cores. So this process gets
//! one more, which sleeps, for as long as it has to wait for cores.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

/// How often the system is asked.
const EVERY: Duration = Duration::from_millis(20);
/// The share of the time spent waiting for a core above which cores are shared, and below which they are not. Alone it is
/// below 0.01; beside a second program 0.5 while threads loop, 0.3 when they do not.
const SHARED: f64 = 0.15;
const ALONE: f64 = 0.03;

static WATCHED: AtomicBool = AtomicBool::new(false);

/// While it is held, this process makes room for others. Linux tells how long a thread has waited; elsewhere nothing
/// changes.
pub struct SharedCores {
    watcher: Option<Worker>,
    watched: &'static AtomicBool,
}

impl SharedCores {
    /// Watches the thread that calls it. Where that is done already, nothing more is.
    pub fn watch() -> Self {
        Self::watch_unless(&WATCHED)
    }

    fn watch_unless(watched: &'static AtomicBool) -> Self {
        let place = fs::read_link("/proc/thread-self").ok();
        let place = place.map(|thread| Path::new("/proc").join(thread).join("schedstat"));
        let watcher = place
            .filter(|place| waited(place).is_some() && !watched.swap(true, Ordering::Relaxed))
            .map(|place| Worker::new(move |ended| watch(&place, ended)));
        Self { watcher, watched }
    }
}

impl fmt::Debug for SharedCores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.watcher.is_some() {
            "SharedCores"
        } else {
            "SharedCores, watched elsewhere"
        })
    }
}

impl Drop for SharedCores {
    fn drop(&mut self) {
        if self.watcher.take().is_some() {
            self.watched.store(false, Ordering::Relaxed);
        }
    }
}

fn watch(place: &Path, ended: &Ended) {
    let mut sleeper = None;
    let (mut then, mut before) = (Instant::now(), waited(place).unwrap_or_default());
    while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let Some(waited) = waited(place) else { return };
        let share = (waited - before).as_secs_f64() / then.elapsed().as_secs_f64();
        (then, before) = (Instant::now(), waited);
        match are_shared(sleeper.is_some(), share) {
            true if sleeper.is_none() => sleeper = Some(Worker::new(sleep)),
            true => {}
            false => sleeper = None,
        }
    }
}

/// Between the two limits it stays as it was.
fn are_shared(before: bool, share: f64) -> bool {
    share > if before { ALONE } else { SHARED }
}

/// Computes enough for OpenMP's library to start threads, which live as long as this one.
fn sleep(ended: &Ended) {
    let _ = Tensor::zeros([1 << 17], (Kind::Float, Device::Cpu)).exp();
    let _ = ended.recv();
}

/// How long a thread has waited for a core, all in all.
fn waited(place: &Path) -> Option<Duration> {
    let text = fs::read_to_string(place).ok()?;
    Some(Duration::from_nanos(text.split(' ').nth(1)?.parse().ok()?))
}

type Ended = std::sync::mpsc::Receiver<()>;

/// A thread that ends with its value.
struct Worker {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn new(work: impl FnOnce(&Ended) + Send + 'static) -> Self {
        let (end, ended) = channel();
        Self { end: Some(end), thread: Some(spawn(move || work(&ended))) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_busy_moment_changes_nothing_and_a_busy_neighbour_does() {
        let state =
            |shares: &[f64]| shares.iter().fold(false, |before, &now| are_shared(before, now));
        assert!(!state(&[0., 0.05, 0.1]));
        assert!(state(&[0., 0.5]));
        assert!(state(&[0.5, 0.3, 0.05]));
        assert!(!state(&[0.5, 0.3, 0.]));
    }

    #[test]
    fn the_system_says_how_long_a_thread_has_waited() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "2000000 1500000000 7\n").unwrap();
        assert_eq!(waited(file.path()), Some(Duration::from_millis(1500)));
        fs::write(file.path(), "\n").unwrap();
        assert_eq!(waited(file.path()), None);
    }

    #[test]
    fn a_process_is_watched_once_and_numbers_stay() {
        static HERE: AtomicBool = AtomicBool::new(false);
        let sum = || Tensor::arange(1 << 18, (Kind::Float, Device::Cpu)).sin().sum(Kind::Float);
        let alone = sum().double_value(&[]);
        let first = SharedCores::watch_unless(&HERE);
        assert_eq!(HERE.load(Ordering::Relaxed), first.watcher.is_some());
        assert!(first.watcher.is_none() || SharedCores::watch_unless(&HERE).watcher.is_none());
        let sleeper = Worker::new(sleep);
        assert_eq!(sum().double_value(&[]), alone);
        drop((sleeper, first));
        assert!(!HERE.load(Ordering::Relaxed));
    }
}
