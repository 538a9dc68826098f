//! A killed training resumes as if nothing had happened.
#![cfg(feature = "cli")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn train(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diffuscope"));
    command
        .args(
            "train vae --steps 14 --batch 3 --scenes 6 --size 16 --widths 8,16 --groups 4"
                .split(' '),
        )
        .args("--warmup 3 --sheet-every 5 --dtype f32 --device cpu --seed 3".split(' '))
        .args(more)
        .arg("--out")
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The loss of a step, counted from 1.
fn loss(out: &Path, step: usize) -> f64 {
    let text = read(&out.join("loss.csv"));
    text.lines().nth(step).unwrap().split(',').nth(1).unwrap().parse().unwrap()
}

#[test]
fn killed_and_resumed_it_has_the_same_loss_curve() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    assert!(train(&whole, &[]).status().unwrap().success());

    // A checkpoint at every step, so that the kill falls anywhere: before, in or after a write.
    let often = ["--checkpoint-minutes", "0"];
    let mut child = train(&broken, &often).spawn().unwrap();
    let started = Instant::now();
    while read(&broken.join("loss.csv")).lines().count() < 7 {
        assert!(started.elapsed() < Duration::from_secs(120), "the training does not advance");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = read(&broken.join("loss.csv"));
    assert!(before.lines().count() < 15, "it was killed after its end: {before}");
    assert!(train(&broken, &often).status().unwrap().success());

    let (a, b) = (read(&whole.join("loss.csv")), read(&broken.join("loss.csv")));
    assert_eq!(a.lines().count(), 15);
    assert_eq!(a, b);
    let weights = Path::new("model/vae/diffusion_pytorch_model.safetensors");
    let bytes = |out: &Path| std::fs::read(out.join(weights)).unwrap();
    assert!(bytes(&whole) == bytes(&broken), "the trained weights differ");
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(train(folder.path(), &["--stop-at", "2"]).status().unwrap().success());
    let output = train(folder.path(), &["--rate", "0.5"]).stderr(Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("checkpoint's settings"), "{said}");
    assert!(train(folder.path(), &[]).status().unwrap().success());
}

#[test]
fn training_can_start_from_a_trained_network() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    assert!(train(&first, &[]).status().unwrap().success());
    let model = first.join("model");
    let from = ["--from", model.to_str().unwrap()];
    assert!(train(&second, &[&from[..], &["--stop-at", "1"]].concat()).status().unwrap().success());
    let (fresh, went_on, last) = (loss(&first, 1), loss(&second, 1), loss(&first, 14));
    assert!(went_on < fresh.midpoint(last), "{fresh} to {last}, then {went_on}");

    let other = [&from[..], &["--widths", "8,24"]].concat();
    let out = folder.path().join("third");
    let output = train(&out, &other).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("as the network to be trained"), "{said}");
}

#[test]
fn cores_that_share_a_batch_learn_what_one_learns() {
    let folder = tempfile::tempdir().unwrap();
    let out = |workers: &str| folder.path().join(workers);
    for workers in ["1", "2", "3"] {
        let more = ["--workers", workers];
        assert!(train(&out(workers), &more).status().unwrap().success());
    }
    for step in 1..=14 {
        let [one, two, three] = ["1", "2", "3"].map(|workers| loss(&out(workers), step));
        assert!((two / one - 1.).abs() < 1e-3 && (three / one - 1.).abs() < 1e-3, "step {step}");
    }
    assert!(loss(&out("1"), 14) < loss(&out("1"), 1));
}

#[test]
fn an_autoencoder_grows_to_larger_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    assert!(train(&small, &[]).status().unwrap().success());
    let model = small.join("model");
    let size = ["--size", "32", "--widths", "8,8,16", "--from", model.to_str().unwrap()];
    let mut command = Command::new(env!("CARGO_BIN_EXE_diffuscope"));
    let rest = "train vae --steps 2 --batch 2 --scenes 6 --groups 4 --dtype f32 --device cpu";
    command.args(rest.split(' ')).args(size).arg("--out").arg(&large);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The inner levels' weights moved by two small steps at most; the outer level is new.
    let tensor = |out: &Path, name: &str| {
        let file = out.join("model/vae/diffusion_pytorch_model.safetensors");
        diffuscope::tensor_file::TensorFile::open(file).unwrap().tensor(name).unwrap()
    };
    let far = |a: &str, b: &str| {
        let (a, b) = (tensor(&small, a), tensor(&large, b));
        f64::try_from((&a - b).abs().max() / a.abs().max()).unwrap()
    };
    let part = |block: usize| format!("encoder.down_blocks.{block}.resnets.0.conv1.weight");
    assert!(far(&part(0), &part(1)) < 0.05 && far(&part(0), &part(0)) > 0.5);
}
