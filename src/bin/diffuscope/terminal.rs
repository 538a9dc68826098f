//! Messages and progress bars on the terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// Prints a message. Control characters in a prompt must not reach the terminal.
pub fn say(message: &str) {
    let plain = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    eprintln!("{}", message.chars().map(plain).collect::<String>());
}

/// A progress bar; hidden if the output is not a terminal.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}
