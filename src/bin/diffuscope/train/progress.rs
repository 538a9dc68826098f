//! How far a training is, for a person.

use diffuscope::train::TrainProgress;

use crate::terminal::bar;

/// Shows progress: a bar on a terminal, otherwise a line every hundred steps.
pub fn show_progress(steps: u64) -> impl FnMut(&TrainProgress) {
    let bar = bar(steps, "{bar:30} {pos}/{len} {msg} {eta} left");
    let mut smooth = None;
    move |p: &TrainProgress| {
        let average = smooth.map_or(p.loss, |old: f64| old * 0.98 + p.loss * 0.02);
        smooth = Some(average);
        let text = format!("loss {average:.4}, {:.1} samples/s", p.samples_per_second);
        if bar.is_hidden() && (p.step.is_multiple_of(100) || p.step == p.steps) {
            eprintln!("step {}/{}: {text}", p.step, p.steps);
        }
        bar.set_message(text);
        bar.set_position(p.step);
        if p.step == p.steps {
            bar.finish();
        }
    }
}
