//! What the command-line program does with good and with bad input.
#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use diffuscope::picture::{read, read_png_text, write_png};
use diffuscope::pipeline::Trace;
use diffuscope::pipeline::tiny_folder;
use diffuscope::tensor_file::{TensorFile, write_tensors};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(folder: &Path, args: &[&str]) -> Ran {
    let out = Command::new(env!("CARGO_BIN_EXE_diffuscope"))
        .args(args)
        .current_dir(folder)
        .env("DIFFUSCOPE_DEVICE", "cpu")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: out.status.code(), out: text(out.stdout), err: text(out.stderr) }
}

fn works(folder: &Path, args: &[&str]) -> Ran {
    let ran = run(folder, args);
    assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.err);
    ran
}

/// The call fails with a message that holds `said`, without a panic, and leaves nothing behind.
fn fails(folder: &Path, args: &[&str], said: &str) {
    let before = names(folder);
    let ran = run(folder, args);
    assert!(matches!(ran.code, Some(1 | 2)), "{args:?}: {:?} {}", ran.code, ran.err);
    assert!(ran.err.contains("error: ") && ran.err.contains(said), "{args:?}: {}", ran.err);
    assert!(!ran.err.contains("panicked") && !ran.err.contains("cannot go on"), "{}", ran.err);
    assert_eq!(names(folder), before, "{args:?}");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A copy of the embedded model's folder that can be damaged.
fn model(folder: &TempDir) -> PathBuf {
    let model = folder.path().join("model");
    copy(&tiny_folder(), &model);
    model
}

#[test]
fn arguments_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("no.png"), b"\x89PNG not a picture").unwrap();
    fs::write(folder.path().join("file"), b"").unwrap();
    for (args, said) in [
        (&["--sampler", "dpm"][..], "dpm++2m, dpm++3m"),
        (&["--steps", "0"], "steps: expected 1 to"),
        (&["--guidance-rescale", "1.5"], "guidance_rescale: expected 0 to 1"),
        (&["--guidance-interval", "0.8,0.2"], "guidance interval: expected 0 to 1, upwards"),
        (&["--guidance-interval", "0.8"], "two numbers: FROM,TO"),
        (&["--steps", "2000"], "got 2000"),
        (&["--steps", "nan"], "--steps"),
        (&["--width", "nan"], "--width"),
        (&["--width", "-64"], "width: expected a multiple of"),
        (&["--height", "65"], "height: expected a multiple of"),
        (&["--width", "8192", "--height", "8192", "--count", "500"], "memory that is free"),
        (&["--count", "0"], "--count"),
        (&["--count", "99999999999"], "--count"),
        (&["--guidance", ""], "--guidance"),
        (&["--guidance", "nan"], "--guidance: expected finite numbers"),
        (&["--guidance", "1,3", "--trace", "t.safetensors"], "one scale"),
        (&["--eta", "1.5"], "--eta"),
        (&["--eta", "0.5", "--sampler", "euler"], "euler has no eta"),
        (&["--strength", "0.5"], "--init"),
        (&["--init", "no.png", "--strength", "1.5"], "--strength"),
        (&["--init", "no.png", "--strength", "nan"], "--strength"),
        (&["--init", "no.png", "--strength", "0.5"], "no.png"),
        (&["--init", "none.png", "--strength", "0.5"], "none.png"),
        (&["--initial-latents", "no.png"], "safetensors"),
        (&["--mask", "no.png"], "--init"),
        (&["--depth", "none.png"], "none.png"),
        (&["--small", "none.png"], "none.png"),
        (&["--small", "none.png", "--width", "64"], "--width"),
        (&["--noise-level", "3"], "--small"),
        (&["--variation", "3"], "--variation: expected a seed and a number"),
        (&["--variation", "3,1.5"], "--variation: expected a seed and a number"),
        (&["--clip-skip", "9"], "skip"),
        (&["--tile", "15"], "--tile: expected a multiple of"),
        (&["--lora", "none.safetensors:0.5"], "none.safetensors"),
        (&["--lora", ":1"], "FILE or FILE:STRENGTH"),
        (&["--device", "abacus"], "abacus"),
        (&["--model", "."], "model_index.json"),
        (&["--out", "none/a.png"], "none/a.png"),
        (&["--out", "file/a.png"], "file/a.png"),
        (&["--out", "file/folder/"], "file/folder"),
        (&["--out", "a.jpg"], "PNG"),
        (&["--trace", "none/t.safetensors"], "none/t.safetensors"),
    ] {
        fails(folder.path(), &[&["generate", "a cat"], args].concat(), said);
    }
    // Nobody can make a file there, not even root.
    if cfg!(target_os = "linux") {
        fails(folder.path(), &["generate", "a cat", "--out", "/proc/a.png"], "/proc/a.png");
        fails(folder.path(), &["generate", "a cat", "--out", "/proc/new/"], "/proc/new");
        let trained = ["train", "vae", "--steps", "1", "--scenes", "1", "--size", "16"];
        fails(folder.path(), &[&trained[..], &["--out", "/proc/new"]].concat(), "/proc/new");
    }
    fails(folder.path(), &["generate"], "PROMPT");
    fails(folder.path(), &["scenes", "--count", "0", "--out", "s"], "--count");
    fails(folder.path(), &["schedule", "--out", "none/s.png"], "none/s.png");
}

#[test]
fn damaged_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder);
    let generate = ["generate", "a cat", "--steps", "1", "--model", "model"];
    let damage = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>, said: &str| {
        let path = model.join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, change(whole.clone())).unwrap();
        fails(folder.path(), &generate, said);
        fs::write(&path, whole).unwrap();
    };
    let weights = "unet/diffusion_pytorch_model.safetensors";
    damage(weights, &|w| w[..w.len() / 2].to_vec(), "not an intact safetensors file");
    damage(weights, &|_| Vec::new(), "too short");
    let flipped = |mut w: Vec<u8>| {
        let at = w.len() - 1000;
        w[at] ^= 16;
        w
    };
    damage(weights, &flipped, "checksum");
    let replaced = |name: &str, from: &str, to: &str, said: &str| {
        let change = |text: Vec<u8>| {
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(from), "{name} has no {from}");
            text.replace(from, to).into_bytes()
        };
        damage(name, &change, said);
    };
    let unet = "unet/config.json";
    replaced(unet, "\"cross_attention_dim\"", "\"other\"", "cross_attention_dim");
    replaced(unet, "{", "", "config.json");
    replaced("vae/config.json", "\"block_out_channels\"", "\"other\"", "block_out_channels");
    for (key, value) in [
        ("cross_attention_dim", "-8"),
        ("cross_attention_dim", "999999999999"),
        ("layers_per_block", "4096"),
    ] {
        let text = fs::read_to_string(model.join(unet)).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        damage(unet, &|_| config.to_string().into_bytes(), "unet");
    }
    let text = fs::read_to_string(model.join("text_encoder/config.json")).unwrap();
    for heads in [0, -4, 7] {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["num_attention_heads"] = heads.into();
        let change = |_| config.to_string().into_bytes();
        damage("text_encoder/config.json", &change, "text_encoder");
    }
    fs::remove_file(model.join(weights)).unwrap();
    fails(folder.path(), &generate, "holds no diffusion_pytorch_model.safetensors");
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder);
    let path = model.join("vae/diffusion_pytorch_model.safetensors");
    let whole: Vec<(String, Tensor)> = {
        let file = TensorFile::open(&path).unwrap();
        file.names().map(|name| (name.to_owned(), file.tensor(name).unwrap())).collect()
    };
    let name = "decoder.conv_in.bias";
    type Change = fn(&mut Vec<(String, Tensor)>, usize);
    for (change, said) in [
        (
            (|all, i| all[i].1 = Tensor::zeros([5], (Kind::Half, Device::Cpu))) as Change,
            "decoder.conv_in.bias should be",
        ),
        (|all, i| drop(all.remove(i)), "decoder.conv_in.bias [96] is missing"),
        (
            |all, i| all.push(("decoder.other".into(), all[i].1.shallow_clone())),
            "decoder.other is not part of the configured network",
        ),
        (|all, i| all[i].1 = &all[i].1 * f64::NAN, "not finite"),
    ] {
        let mut tensors: Vec<_> =
            whole.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        let i = tensors.iter().position(|(n, _)| n == name).unwrap();
        change(&mut tensors, i);
        write_tensors(&path, &tensors, &[]).unwrap();
        fails(folder.path(), &["generate", "a cat", "--steps", "1", "--model", "model"], said);
    }
}

#[test]
fn pictures_carry_their_settings_and_a_trace_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let prompts = ["generate", "a cat", "a dog", "--steps", "2", "--seed", "7"];
    let args = ["--out", "many", "--trace", "t.safetensors", "--sampler", "euler"];
    let ran = works(folder.path(), &[&prompts[..], &args].concat());
    let made = ["000-a-cat-seed-7.png", "001-a-dog-seed-8.png", "sheet.png"];
    assert_eq!(names(&at("many")), made);
    assert_eq!(ran.out.lines().count(), 4, "{}", ran.out);
    let texts = read_png_text(at("many").join(made[1])).unwrap();
    for (key, value) in [
        ("prompt", "a dog"),
        ("seed", "8"),
        ("sampler", "euler"),
        ("num_inference_steps", "2"),
        ("guidance_scale", "5"),
        ("dtype", "f32"),
    ] {
        assert!(texts.contains(&(key.into(), value.into())), "{key}: {texts:?}");
    }
    let trace = Trace::load(at("t.safetensors")).unwrap();
    assert_eq!((trace.len(), trace.latents.size()[0]), (2, 2));

    // The trace's final latents are no start for one picture, but they are for two.
    let again = ["--initial-latents", "t.safetensors", "--out", "again.png"];
    works(folder.path(), &[&prompts[..], &again].concat());
    fails(
        folder.path(),
        &["generate", "a cat", "--initial-latents", "t.safetensors"],
        "initial latents",
    );

    // Strength 0 is the picture, as the autoencoder gives it back.
    let cat = format!("many/{}", made[0]);
    let init = ["generate", "x", "--init", &cat, "--strength", "0", "--out", "back.png"];
    works(folder.path(), &init);
    let (a, b) = (read(at(&cat), 64, 64).unwrap(), read(at("back.png"), 64, 64).unwrap());
    let far = (a - b).abs().mean(Kind::Float).double_value(&[]);
    assert!(far < 0.2, "{far}");
}

#[test]
fn any_text_is_a_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let long = "word ".repeat(5000);
    let odd = "\u{1f600} \u{7}\u{1b}[31m\n tab\t";
    let args = ["generate", "", &long, odd, "--steps", "1", "--out", "all.png"];
    let ran = works(folder.path(), &args);
    assert!(ran.err.contains("warning: the prompt is longer than 75 tokens"), "{}", ran.err);
    assert_eq!(names(folder.path()), ["all.png"]);
}

#[test]
fn what_a_person_should_know_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let args =
        ["generate", "a dragon", "a dragon", "--guidance", "1,5", "--steps", "1", "--count", "2"];
    let ran = works(folder.path(), &args);
    assert_eq!(
        ran.err.matches("warning: the model was not taught: dragon;").count(),
        1,
        "{}",
        ran.err
    );
    let cat = "cat.png";
    works(folder.path(), &["generate", "a cat", "--steps", "1", "--out", cat]);
    let still = ["generate", "a cat", "--init", cat, "--strength", "0", "--out", "still.png"];
    let ran = works(folder.path(), &still);
    assert_eq!(ran.err.matches("warning: no step is left to take").count(), 1, "{}", ran.err);
    // One step of which four fifths are asked for is none.
    let one = ["generate", "a cat", "--init", cat, "--strength", "0.8", "--steps", "1"];
    let ran = works(folder.path(), &[&one[..], &["--out", "one.png"]].concat());
    let said = "warning: no step is left to take: 1 step at strength 0.8 is none,";
    assert_eq!(ran.err.matches(said).count(), 1, "{}", ran.err);
    let ran = works(folder.path(), &["generate", "a 味", "--steps", "1", "--out", "bytes.png"]);
    assert!(ran.err.contains("not taught: 味;"), "{}", ran.err);
}

#[test]
fn guidance_scales_make_one_sheet_and_scenes_have_captions() {
    let folder = tempfile::tempdir().unwrap();
    works(folder.path(), &["generate", "a cat", "--steps", "1", "--guidance", "-1,0,7.5"]);
    assert_eq!(names(folder.path()), ["diffuscope-a-cat.png"]);
    let texts = read_png_text(folder.path().join("diffuscope-a-cat.png")).unwrap();
    assert!(texts.contains(&("guidance_scales".into(), "-1, 0, 7.5".into())), "{texts:?}");
    works(folder.path(), &["scenes", "--count", "3", "--out", "s"]);
    let made = ["00000.png", "00001.png", "00002.png", "captions.jsonl", "sheet.png"];
    assert_eq!(names(&folder.path().join("s")), made);
    let lines = fs::read_to_string(folder.path().join("s/captions.jsonl")).unwrap();
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["caption"].is_string() && line["truth"].is_object());
    }
    works(folder.path(), &["schedule", "--out", "schedule.png"]);
}

#[test]
fn a_checkpoint_is_inspected_without_opening_it() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoint");
    let path = |name: &str| golden.join(name).to_str().unwrap().to_owned();
    let ran = works(folder.path(), &["inspect", &path("sd2.ckpt")]);
    for said in [
        "sd2.ckpt: Stable Diffusion 2.x 768-v",
        "because its keys are latent-diffusion's",
        "keys         CompVis/LDM",
        "v_prediction (assumed: as diffusers does for SD 2.x)",
        "GB in f32",
        "known but not needed:",
        "every tensor is there and has the right shape",
    ] {
        assert!(ran.out.contains(said), "{said}: {}", ran.out);
    }
    let stated = ["inspect", &path("sd2.ckpt"), "--prediction", "epsilon"];
    let ran = works(folder.path(), &stated);
    assert!(
        ran.out.contains("2.x base") && ran.out.contains("epsilon (known: stated by the user)")
    );
    let ran = works(folder.path(), &["inspect", &path("sd1.ckpt"), "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["family"], "Stable Diffusion 1.x");
    assert_eq!(report["networks"].as_array().unwrap().len(), 3);
    assert_eq!(report["networks"][0]["dtypes"].as_object().unwrap().keys().next().unwrap(), "f16");
    let tiny = tiny_folder();
    assert!(works(folder.path(), &["inspect", tiny.to_str().unwrap()]).out.contains("1.x"));
    fails(folder.path(), &["inspect", &path("odd/system.ckpt")], "`posix.system`");
    fails(folder.path(), &["inspect", &path("odd/deflated.ckpt")], "compressed");
    fails(folder.path(), &["inspect", "."], "model_index.json");
    fails(folder.path(), &["inspect", "none"], "none");
    assert_eq!(names(folder.path()), [""; 0]);

    // And it draws, from a single file as from a folder.
    let small = ["--width", "32", "--height", "32", "--steps", "1", "--out", "a.png"];
    let draw = ["generate", "a cat", "--model", &path("sd2.ckpt")];
    let ran = works(folder.path(), &[&draw[..], &small].concat());
    assert!(ran.err.contains("v_prediction was assumed"), "{}", ran.err);
    let ran = works(folder.path(), &[&draw[..], &small, &["--prediction", "v"]].concat());
    assert!(!ran.err.contains("assumed"), "{}", ran.err);
}

/// White where the picture is drawn anew; a LoRA at strength 0 changes nothing, at 1 all.
#[test]
fn tasks_and_low_rank_changes() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, args: &[&str]| {
        let out = format!("{name}.png");
        let all = ["generate", "a red apple on the grass, flat", "--steps", "4", "--out", &out];
        let ran = works(folder.path(), &[&all[..], args].concat());
        let path = folder.path().join(&out);
        (read(&path, 64, 64).unwrap(), read_png_text(&path).unwrap(), ran.err)
    };
    let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    let (plain, ..) = made("plain", &[]);

    let half = Tensor::full([1, 3, 64, 64], -1., (Kind::Float, Device::Cpu));
    let _ = half.narrow(3, 32, 32).fill_(1.);
    write_png(folder.path().join("mask.png"), &half, &[]).unwrap();
    let masked = ["--init", "plain.png", "--strength", "0.9", "--mask", "mask.png", "--seed", "5"];
    let (image, texts, _) = made("masked", &masked);
    let side = |x: &Tensor, from: i64| x.narrow(3, from, 24);
    let mean = |a: Tensor, b: Tensor| (a - b).abs().mean(Kind::Float).double_value(&[]);
    let [kept, anew] = [0, 40].map(|from| mean(side(&image, from), side(&plain, from)));
    assert!(kept < 0.05 && anew > 3. * kept, "{kept} {anew}");
    assert!(texts.contains(&("mask".into(), "mask.png".into())), "{texts:?}");

    let (same, ..) = made("same", &["--variation", "3,0"]);
    let (near, ..) = made("near", &["--variation", "3,0.2"]);
    let (tiled, ..) = made("tiled", &["--tile", "32"]);
    let (skipped, ..) = made("skipped", &["--clip-skip", "1"]);
    assert!(same.equal(&plain));
    for other in [near, tiled, skipped] {
        assert!(apart(&other, &plain) > 0.02);
    }

    let key = |end: &str| format!("lora_unet_conv_out.{end}.weight");
    let unet =
        TensorFile::open(tiny_folder().join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let shape = unet.shape("conv_out.weight").unwrap();
    let down = Tensor::ones([1, shape[1], shape[2], shape[3]], (Kind::Float, Device::Cpu));
    let up = Tensor::full([shape[0], 1, 1, 1], 0.01, (Kind::Float, Device::Cpu));
    write_tensors(
        folder.path().join("l.safetensors"),
        &[(key("lora_down"), down), (key("lora_up"), up)],
        &[],
    )
    .unwrap();
    let (without, _, said) = made("without", &["--lora", "l.safetensors:0"]);
    assert!(
        without.equal(&plain)
            && said.contains("l.safetensors changes 1 layers of unet, strength 0")
    );
    let (with, texts, _) = made("with", &["--lora", "l.safetensors"]);
    assert!(apart(&with, &plain) > 0.1);
    assert!(texts.contains(&("lora".into(), "l.safetensors:1".into())), "{texts:?}");
}

/// Runs a command, sends it Ctrl-C when it has said `when`, and returns its exit code and all that it said.
#[cfg(target_os = "linux")]
fn interrupted(folder: &Path, args: &[&str], when: &str) -> (Option<i32>, String) {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(env!("CARGO_BIN_EXE_diffuscope"))
        .args(args)
        .current_dir(folder)
        .env("DIFFUSCOPE_DEVICE", "cpu")
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    while !said.contains(when) {
        assert!(err.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    std::io::Read::read_to_string(&mut err, &mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

/// Ctrl-C ends after the step under way, and what there is is written.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_writes_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["generate", "a cat", "--steps", "900", "--guidance", "1,5", "--out", "a.png"];
    // It listens from its first line on.
    let (code, said) = interrupted(folder.path(), &args, "device: ");
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("stopped after 1 of 1800 steps"), "{said}");
    assert!(read(folder.path().join("a.png"), 64, 64).is_ok());
}

/// A training keeps its last step, and the same command goes on from there.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_training_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let args =
        ["train", "judge", "--steps", "90000", "--scenes", "16", "--size", "32", "--batch", "2"];
    let args = [&args[..], &["--out", "judge", "--dtype", "f32"]].concat();
    let (code, said) = interrupted(folder.path(), &args, "step 100/90000: ");
    assert_eq!(code, Some(130), "{said}");
    let step = said.split("stopped after ").nth(1).and_then(|rest| rest.split(' ').next());
    let step: u64 = step.and_then(|step| step.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    let steps = || {
        std::fs::read_to_string(folder.path().join("judge/loss.csv")).unwrap().lines().count()
            as u64
            - 1
    };
    assert!(step >= 100 && steps() == step, "{step}, {said}");
    let until = (step + 2).to_string();
    works(folder.path(), &[&args[..], &["--stop-at", &until]].concat());
    assert_eq!(steps(), step + 2);
    let (code, said) = interrupted(
        folder.path(),
        &["eval", "--count", "64", "--out", "scores"],
        "after the autoencoder",
    );
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("interrupted at guidance "), "{said}");
}

#[test]
fn seeds_are_those_of_other_programs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let drawn = |seed: &str, out: &str| {
        works(folder.path(), &["generate", "a cat", "--steps", "1", "--seed", seed, "--out", out]);
        let said = read_png_text(at(out)).unwrap();
        assert!(said.contains(&("seed".into(), seed.into())), "{said:?}");
        read(at(out), 64, 64).unwrap()
    };
    // Two's complement, as torch takes it.
    for (large, negative) in
        [("18446744073709551615", "-1"), ("9223372036854775808", "-9223372036854775808")]
    {
        assert!(drawn(large, "a.png").equal(&drawn(negative, "b.png")), "{large}");
    }
    let two = ["generate", "a cat", "--steps", "1", "--count", "2", "--seed"];
    for (seed, both) in [
        ("18446744073709551615", "18446744073709551615, 0"),
        ("9223372036854775807", "9223372036854775807, 9223372036854775808"),
        ("-1", "-1, 0"),
    ] {
        let last = ["--variation", "18446744073709551615,0.5", "--out", "two.png"];
        works(folder.path(), &[&two[..], &[seed], &last].concat());
        let said = read_png_text(at("two.png")).unwrap();
        assert!(said.contains(&("seeds".into(), both.into())), "{said:?}");
    }
    for seed in ["18446744073709551616", "-9223372036854775809", "1e3", ""] {
        fails(folder.path(), &[&two[..], &[seed]].concat(), "from -2^63 to 2^64 - 1");
    }
    works(folder.path(), &["scenes", "--count", "2", "--seed", "-1", "--out", "s"]);
    let eval = ["eval", "--count", "51", "--steps", "1", "--guidance", "1", "--out", "e"];
    works(folder.path(), &[&eval[..], &["--seed", "9223372036854775807"]].concat());
}

#[test]
fn files_of_one_call_have_places_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("t.safetensors"), "another program's").unwrap();
    for (args, said) in [
        (&["--trace", "a.png", "--out", "a.png"][..], "--trace: expected F.safetensors, got a.png"),
        (&["--trace", "b.PNG"], "--trace: expected F.safetensors"),
        (&["--trace", "x", "--out", "x"], "--trace: expected a file of its own"),
        (&["--trace", "./t.safetensors", "--model", "t.safetensors"], "a file of its own"),
        (&["--trace", "t.safetensors", "--lora", "t.safetensors:0.5"], "a file of its own"),
        (&["--trace", "t.safetensors", "--initial-latents", "./t.safetensors"], "of its own"),
        (&["--out", "missing/x.png"], "missing/x.png: there is no folder missing; make it first"),
        (&["--trace", "missing/x"], "missing/x: there is no folder missing; make it first"),
        (&["--out", "t.safetensors/x.png"], "t.safetensors is not a folder"),
    ] {
        fails(folder.path(), &[&["generate", "a cat"], args].concat(), said);
    }
}

/// Nothing that a call reads is written over by it, whatever its name is there.
#[cfg(unix)]
#[test]
fn no_input_is_written_over() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let picture = Tensor::zeros([3, 64, 64], (Kind::Float, Device::Cpu));
    for name in ["sub", "model/unet", "lora", "runs/model/vae", "runs/model/tokenizer"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for name in ["a.png", "sub/sheet.png", "sub/000-a-cat-seed-0.png"] {
        write_png(at(name), &picture, &[]).unwrap();
    }
    for name in ["t.safetensors", "model/unet/w.safetensors", "lora/w.safetensors"] {
        fs::write(at(name), "weights").unwrap();
    }
    symlink("a.png", at("link.png")).unwrap();
    symlink("sub", at("sub-link")).unwrap();
    symlink("t.safetensors", at("t-link")).unwrap();
    symlink("runs/model", at("trained")).unwrap();
    let absolute = at("a.png").display().to_string();
    let start = |args: &'static [&'static str]| [&["generate", "a cat"], args].concat();
    let mut all: Vec<Vec<&str>> = Vec::new();
    for (input, more) in
        [("--init", &["--strength", "0.5"][..]), ("--depth", &[]), ("--small", &[])]
    {
        for (read, written) in [
            ("a.png", "a.png"),
            ("a.png", "./a.png"),
            ("./sub/../a.png", "a.png"),
            (&absolute, "a.png"),
            ("link.png", "a.png"),
            ("a.png", "link.png"),
            ("sub/sheet.png", "sub-link/sheet.png"),
            ("sub/000-a-cat-seed-0.png", "sub"),
            ("sub-link/000-a-cat-seed-0.png", "sub/"),
        ] {
            all.push([&["generate", "a cat", input, read, "--out", written], more].concat());
        }
    }
    let masked = ["--init", "link.png", "--strength", "1", "--mask", "sub/sheet.png", "--out"];
    for out in ["sub/sheet.png", "sub", "a.png"] {
        all.push([&start(&["--count", "2"]), &masked[..], &[out]].concat());
    }
    all.extend([
        start(&["--model", "a.png", "--out", "link.png"]),
        start(&["--lora", "a.png:0.5", "--out", "a.png"]),
        start(&["--initial-latents", "a.png", "--out", "./a.png"]),
        start(&["--initial-latents", "t-link", "--trace", "t.safetensors"]),
        start(&["--model", "t.safetensors", "--trace", "t-link"]),
        start(&["--model", "model", "--trace", "./model/unet/w.safetensors"]),
        start(&["--model", "t-link", "--configs", "model", "--trace", "model/unet/w.safetensors"]),
        start(&["--lora", "lora", "--trace", "lora/w.safetensors"]),
        vec!["train", "vae", "--steps", "1", "--from", "runs/model", "--out", "runs"],
        vec!["train", "vae", "--steps", "1", "--judge", "trained", "--out", "runs"],
        vec!["train", "judge", "--steps", "1", "--from", "trained", "--out", "./runs"],
        vec!["train", "diffusion", "--steps", "1", "--vae", "runs/model", "--out", "runs"],
        vec![
            "train",
            "diffusion",
            "--steps",
            "1",
            "--vae",
            "sub",
            "--tokenizer",
            "trained/tokenizer",
            "--out",
            "runs",
        ],
    ]);
    symlink("../s/scheduler/scheduler_config.json", at("sub/plot.png")).unwrap();
    fs::create_dir_all(at("s/scheduler")).unwrap();
    fs::copy(
        tiny_folder().join("scheduler/scheduler_config.json"),
        at("s/scheduler/scheduler_config.json"),
    )
    .unwrap();
    all.push(vec!["schedule", "--model", "s", "--out", "sub/plot.png"]);
    all.push(vec!["eval", "--count", "16", "--model", "sub/sheet.png", "--out", "sub-link"]);
    for args in all {
        fails(folder.path(), &args, "of its own");
    }
    // Beside what is read there is room, the second time too.
    let init = ["--init", "sub/sheet.png", "--strength", "0.5", "--steps", "2"];
    let before = fs::read(at("sub/sheet.png")).unwrap();
    for out in ["lora/b.png", "lora/b.png", "sub"] {
        let out = ["--out", out, "--trace", "sub/t.safetensors"];
        works(folder.path(), &[&start(&[])[..], &out, &init].concat());
    }
    assert_eq!(fs::read(at("sub/sheet.png")).unwrap(), before);
}

/// No run takes the name that another one is about to write to.
#[test]
fn runs_at_the_same_time_lose_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    let run = |seed: &u32| {
        Command::new(env!("CARGO_BIN_EXE_diffuscope"))
            .args(["generate", "a cat", "--steps", "2", "--seed", &seed.to_string()])
            .current_dir(folder.path())
            .env("DIFFUSCOPE_DEVICE", "cpu")
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let runs: Vec<_> = [1, 2, 3].iter().map(run).collect();
    let mut seeds = Vec::new();
    for run in runs {
        let said = String::from_utf8(run.wait_with_output().unwrap().stdout).unwrap();
        let texts = read_png_text(folder.path().join(said.trim())).unwrap();
        seeds.extend(texts.into_iter().filter(|(key, _)| key == "seed").map(|(_, seed)| seed));
    }
    assert_eq!(seeds, ["1", "2", "3"]);
    assert_eq!(names(folder.path()).len(), 3);
}

#[cfg(target_os = "linux")]
#[test]
fn paths_need_not_be_text_and_files_have_the_permissions_of_any_other() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(OsStr::from_bytes(b"mod\xffel"));
    copy(&tiny_folder(), &odd);
    let program = |command: &str, out: &OsStr| {
        let ran = Command::new("sh")
            .args(["-c", &format!("umask 027; exec \"$0\" {command}")])
            .args([OsStr::new(env!("CARGO_BIN_EXE_diffuscope")), odd.as_os_str(), out])
            .current_dir(folder.path())
            .env("DIFFUSCOPE_DEVICE", "cpu")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    let picture = OsStr::from_bytes(b"\xfe.png");
    program("generate cat --steps 1 --model \"$1\" --out \"$2\" --trace t.safetensors", picture);
    for name in [picture, OsStr::new("t.safetensors")] {
        let mode = folder.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{name:?}");
    }
    let report = program("inspect --json \"$1\"", picture);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["path"].as_str().unwrap().ends_with("mod\u{fffd}el"), "{report}");
}

#[test]
fn numbers_that_nothing_has_room_for_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let train = ["train", "vae", "--steps", "1", "--out", "v"];
    let long = "9223372036854775807";
    for (args, said) in [
        (&["--scenes", "100000000000"][..], "--scenes: expected 1 to 10000000, got 100000000000"),
        (&["--scenes", "10000000", "--size", "1024"], "memory that is free"),
        (&["--size", "18446744073709551615"], "16 to 1024 pixels"),
        (&["--scenes", "1", "--size", "16", "--batch", long], "batch: expected 1 to 65536"),
        (&["--scenes", "1", "--size", "16", "--workers", long], "workers: expected 1 to 1024"),
        (&["--scenes", "1", "--size", "16", "--groups", "0"], "norm_num_groups"),
        (&["--scenes", "1", "--size", "16", "--checkpoint-minutes", "nan"], "--checkpoint-minutes"),
        (&["--scenes", "1", "--size", "16", "--ema", "nan"], "the average's decay"),
    ] {
        fails(folder.path(), &[&train[..], args].concat(), said);
    }
    let model = model(&folder);
    let draw = ["generate", "a cat", "--steps", "2", "--model", "model"];
    for (file, key, value) in [
        ("scheduler/scheduler_config.json", "num_train_timesteps", "9223372036854775808"),
        ("unet/config.json", "sample_size", "9223372036854775807"),
        ("vae/config.json", "sample_size", "-9223372036854775808"),
    ] {
        let whole = fs::read_to_string(model.join(file)).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&whole).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        fs::write(model.join(file), config.to_string()).unwrap();
        fails(folder.path(), &draw, key);
        fs::write(model.join(file), whole).unwrap();
    }
    fails(
        folder.path(),
        &[&draw[..], &["--tile", "9223372036854775800"]].concat(),
        "--tile: expected",
    );
    let nested = "[".repeat(50_000) + &"]".repeat(50_000);
    let round = "(".repeat(50_000);
    for prompt in [&nested, &round] {
        let args = ["generate", prompt, "--weighted", "--steps", "1"];
        fails(folder.path(), &args, "at most 64 brackets inside one another");
    }
    // Without --weighted they are text.
    works(folder.path(), &["generate", &nested, "--steps", "1", "--out", "a.png"]);
    assert!(path("a.png").is_file());
}
