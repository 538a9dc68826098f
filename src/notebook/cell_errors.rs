//! What a cell says when something goes wrong in it: a sentence and the line, and the stacks on request.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};

use backtrace::Backtrace;

/// How to see the rest.
const MORE: &str = "(diffuscope::notebook::last_error() tells all that is known)";
/// The file with all that is known, in the kernel's folder.
const LAST_ERROR: &str = "last-error.txt";

/// The last error of a notebook in full: libtorch's words, its C++ stack, and that of a panic.
pub struct LastError(String);

/// What is known of the last panic in this notebook, or of the last error of libtorch that was printed.
#[doc(alias = "backtrace")]
pub fn last_error() -> LastError {
    let text = folder().and_then(|folder| std::fs::read_to_string(folder.join(LAST_ERROR)).ok());
    LastError(text.unwrap_or_else(|| "There was no error in this notebook.".to_owned()))
}

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LastError of {} lines", self.0.lines().count())
    }
}

impl LastError {
    /// Prints it; the notebook kernel calls this when it ends a cell.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

/// The folder of this notebook's kernel.
fn folder() -> Option<PathBuf> {
    std::env::var_os("EVCXR_TMPDIR").map(PathBuf::from)
}

/// A kernel's folder is used again: the error of an earlier notebook is not this one's.
pub(super) fn forget() {
    let _ = folder().map(|folder| std::fs::remove_file(folder.join(LAST_ERROR)));
}

/// Tells of a panic in a cell.
pub(super) fn tell(panic: &PanicHookInfo<'_>) {
    let frames = Backtrace::new();
    let payload = panic.payload();
    let said = payload.downcast_ref::<String>().map(String::as_str);
    let said = said.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
    if let Some(folder) = folder() {
        let _ = std::fs::write(folder.join(LAST_ERROR), format!("{panic}\n\n{frames:?}"));
    }
    let mut told = format!("error: {}\n", sentence(said));
    for line in lines_of_cell(panic, &frames) {
        told += &format!("  at: {line}\n");
    }
    eprintln!("{told}{MORE}");
}

/// What was said, without the frame that an unwrapped error of libtorch has, and without the C++ stack.
fn sentence(said: &str) -> String {
    let Some((_, torch)) = said.split_once("Torch(\"") else {
        return said.lines().take(2).collect::<Vec<_>>().join("\n");
    };
    let words = torch.split("\\nException raised from").next().unwrap_or(torch);
    plain(&words.trim_end_matches("\")").replace("\\n", " ").replace("\\\"", "\""))
}

/// libtorch's sentence about two shapes, with left and right for its `a` and `b`.
fn plain(sentence: &str) -> String {
    let (start, dimension) = match sentence.split_once(" at non-singleton dimension ") {
        Some((start, dimension)) if start.contains("The size of tensor a (") => (start, dimension),
        _ => return sentence.to_owned(),
    };
    let mut sizes = start.split(['(', ')']).skip(1).step_by(2);
    match (sizes.next(), sizes.next()) {
        (Some(left), Some(right)) => format!(
            "two tensors' shapes do not fit: dimension {dimension} has {left} entries in the left one and {right} in the right one"
        ),
        _ => sentence.to_owned(),
    }
}

/// The lines of the notebook that were being run, the innermost first: of a function, and of the cell that calls it.
fn lines_of_cell(panic: &PanicHookInfo<'_>, frames: &Backtrace) -> Vec<String> {
    let Some(file) = folder().map(|folder| folder.join("src/lib.rs")) else { return Vec::new() };
    let code = std::fs::read_to_string(&file).unwrap_or_default();
    let code: Vec<&str> = code.lines().collect();
    let symbols = frames.frames().iter().flat_map(|frame| frame.symbols());
    let numbers = symbols.filter(|s| s.filename().is_some_and(|name| is_cell(name, &file)));
    let numbers = numbers.filter_map(|symbol| symbol.lineno());
    // A panic of Rust's own knows its line, also where the compiler has left no frame.
    let own = panic.location().filter(|place| is_cell(place.file().as_ref(), &file));
    let numbers = own.map(|place| place.line()).into_iter().chain(numbers);
    let mut lines: Vec<String> = Vec::new();
    for line in numbers.filter_map(|n| code.get((n as usize).checked_sub(1)?)) {
        let line = line.trim().to_owned();
        if line.chars().any(char::is_alphanumeric)
            && !is_the_kernels(&line)
            && !lines.contains(&line)
        {
            lines.push(line);
        }
    }
    lines.truncate(2);
    lines
}

fn is_cell(name: &Path, file: &Path) -> bool {
    name == file || (name.is_relative() && file.ends_with(name))
}

/// Lines that the kernel writes around a cell's.
fn is_the_kernels(line: &str) -> bool {
    ["std::panic::", "match std::panic", "if std::panic", "let _ = (||"]
        .iter()
        .any(|start| line.starts_with(start))
}

/// Keeps libtorch's C++ stacks out of what the cell prints as its errors.
#[cfg(unix)]
pub(super) fn shorten_stderr() {
    use std::os::fd::{AsFd, AsRawFd};
    let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() else { return };
    let Ok((reader, writer)) = std::io::pipe() else { return };
    // SAFETY: both are open files of this process.
    if unsafe { libc::dup2(writer.as_raw_fd(), 2) } == 2 {
        std::thread::spawn(move || pass_on(BufReader::new(reader), File::from(stderr), folder()));
    }
}

#[cfg(not(unix))]
pub(super) fn shorten_stderr() {}

/// Passes lines on, but for C++ stacks, which go to the file of the last error in `folder`.
fn pass_on(from: impl BufRead, mut to: impl Write, folder: Option<PathBuf>) {
    let keep = |text: &str, new: bool| {
        let Some(folder) = &folder else { return };
        let mut file = OpenOptions::new();
        let file = file.create(true).write(true).append(!new).truncate(new);
        let _ =
            file.open(folder.join(LAST_ERROR)).and_then(|mut file| file.write_all(text.as_bytes()));
    };
    let (mut in_stack, mut before) = (false, String::new());
    for line in from.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let begins = line.starts_with("Exception raised from ");
        let shown = if begins {
            keep(&format!("{before}\n{line}\n"), true);
            Some(MORE.to_owned())
        } else if in_stack && (line.starts_with("frame #") || line.is_empty()) {
            keep(&format!("{line}\n"), false);
            None
        } else {
            Some(plain(&line))
        };
        in_stack = begins || (in_stack && line.starts_with("frame #"));
        if let Some(shown) = shown {
            // Who reads it may have gone; the cell goes on.
            let _ = writeln!(to, "{shown}");
        }
        before = line;
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    fn refused() -> String {
        let zeros = |size| Tensor::zeros(size, (Kind::Float, tch::Device::Cpu));
        let error = zeros([2, 3].as_slice()).f_add(&zeros([4].as_slice())).unwrap_err();
        format!("{error}\n")
    }

    #[test]
    fn a_refused_sum_is_one_sentence() {
        let words = "two tensors' shapes do not fit: dimension 1 has 3 entries in the left one and 4 in the right one";
        let panic = std::panic::catch_unwind(|| {
            let zeros = |size| Tensor::zeros(size, (Kind::Float, tch::Device::Cpu));
            zeros([2, 3].as_slice()) + zeros([4].as_slice())
        });
        let said = panic.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(sentence(&said), words);
        let other = "called `Result::unwrap()` on an `Err` value: Torch(\"mat1 and mat2 shapes cannot be multiplied (2x3 and \
                     4x5)\\nException raised from meta at a.cpp:1\\nframe #0: c10\\n\")";
        assert_eq!(sentence(other), "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)");
        assert_eq!(sentence("index out of bounds"), "index out of bounds");
    }

    #[test]
    fn a_printed_error_of_libtorch_has_no_stack_and_the_file_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut shown = Vec::new();
        let text = format!("before\n{}after\n", refused());
        assert!(text.lines().count() > 8, "{text}");
        pass_on(text.as_bytes(), &mut shown, Some(folder.path().to_owned()));
        let shown = String::from_utf8(shown).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!((lines[0], lines[2], lines[3], lines.len()), ("before", MORE, "after", 4));
        assert!(lines[1].contains("dimension 1 has 3 entries"), "{shown}");
        let kept = std::fs::read_to_string(folder.path().join(LAST_ERROR)).unwrap();
        assert!(
            kept.contains("The size of tensor a (3)") && kept.contains("\nframe #1: "),
            "{kept}"
        );
    }
}
