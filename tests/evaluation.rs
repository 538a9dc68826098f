//! A judge is trained, and a model's pictures are scored.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use diffuscope::eval::accuracy::{JudgedPicture, prompt_match};
use diffuscope::eval::questions::{answers, judge_folder};
use diffuscope::eval::scores::Scores;
use diffuscope::models::judge::Judge;
use diffuscope::scenes::{Scenes, Split};
use tch::{Device, Kind, Tensor};

fn run(folder: &Path, args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diffuscope"))
        .args(args.split(' '))
        .current_dir(folder)
        .env("DIFFUSCOPE_DEVICE", "cpu")
        .output()
        .unwrap()
}

fn works(folder: &Path, args: &str) {
    let out = run(folder, args);
    assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
}

fn fails(folder: &Path, args: &str, said: &str) {
    let out = run(folder, args);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(
        !out.status.success() && err.contains("error: ") && err.contains(said),
        "{args}: {err}"
    );
    assert!(!err.contains("cannot go on"), "{args}: {err}");
}

/// 200 scenes of a seed that no training had, with trained combinations and others.
#[test]
fn the_embedded_judge_knows_fresh_scenes() -> diffuscope::Result<()> {
    let judge = Judge::open(judge_folder(), Kind::Float, Device::Cpu)?;
    let scenes = Scenes::new(judge.config().sample_size as usize)?;
    let (mut pictures, mut truths) = (vec![], vec![]);
    for seed in (0..200).map(|i| (77 << 32) + i) {
        let (_, truth, form) = scenes.describe(seed, Split::Any)?;
        pictures.push(scenes.scene(seed, Split::Any)?.picture.to_tensor()?);
        truths.push((truth, form));
    }
    let output = judge.forward(&Tensor::cat(&pictures, 0))?;
    let shares = prompt_match(&JudgedPicture::from_answers(&truths, &answers(&output))?);
    for (what, share) in [
        ("object", shares.object),
        ("colour", shares.colour),
        ("background", shares.background),
        ("style", shares.style),
        ("count", shares.count),
        ("pairs", shares.pair_objects),
        ("relation", shares.relation),
    ] {
        assert!(share.share > 0.93, "{what}: {share:?}");
    }
    Ok(())
}

#[test]
fn a_judge_is_trained_and_scores_the_embedded_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let train = "train judge --steps 40 --batch 16 --scenes 64 --rate 0.003 --warmup 2 --ema 0.5 \
                 --dtype f32 --seed 5 --out judge";
    works(at, train);
    let log = fs::read_to_string(at.join("judge/loss.csv")).unwrap();
    let losses: Vec<f64> =
        log.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[35..]));
    assert!(last < 0.7 * first, "it does not learn: {first} to {last}");

    let eval = "eval --judge judge/model/judge --count 16 --steps 1 --guidance 1,4 --training 5,20";
    works(at, &format!("{eval} --out scores"));
    let text = fs::read_to_string(at.join("scores/scores.json")).unwrap();
    let scores: serde_json::Value = serde_json::from_str(&text).unwrap();
    let opened = Scores::open(at.join("scores/scores.json")).unwrap();
    assert_eq!(serde_json::to_value(&opened).unwrap(), scores);
    assert!(fs::read(at.join("scores/sheet.png")).unwrap().starts_with(b"\x89PNG"));
    assert!(fs::read(at.join("scores/scores.png")).unwrap().starts_with(b"\x89PNG"));
    assert!(scores["psnr"].as_f64().unwrap() > 20., "{text}");
    let drawn = scores["drawn"].as_array().unwrap();
    assert_eq!(drawn.len(), 2);
    for (one, scale) in drawn.iter().zip([1., 4.]) {
        assert_eq!(one["guidance_scale"], scale);
        assert_eq!(one["prompt_match"]["background"]["of"], 16);
        assert!(
            one["frechet_distance"].as_f64().unwrap() > scores["frechet_floor"].as_f64().unwrap()
        );
        assert!(one["diversity"].as_f64().unwrap() > 0.);
        let apart = one["memorisation"]["kolmogorov_smirnov"].as_f64().unwrap();
        assert!((0. ..=1.).contains(&apart));
    }
    // The same command, the same numbers.
    works(at, &format!("{eval} --out again"));
    assert_eq!(text, fs::read_to_string(at.join("again/scores.json")).unwrap());

    works(at, "eval --autoencoder --count 16 --out alone");
    let alone = Scores::open(at.join("alone/scores.json")).unwrap();
    assert_eq!((alone.psnr, alone.drawn.len()), (opened.psnr, 0));
    assert!(!at.join("alone/sheet.png").exists() && alone.reconstructed.object.share > 0.8);

    for (args, said) in [
        ("--judge none --out s", "none"),
        ("--judge judge/model/judge --count 2 --out s", "--count"),
        ("--judge judge/model/judge --guidance nan --out s", "--guidance"),
        ("--judge judge/model/judge --count 16 --steps 0 --out s", "steps"),
        ("--judge judge/model/judge --training 1,0 --out s", "--training"),
        ("--judge judge/model/judge --out judge/loss.csv", "loss.csv"),
    ] {
        fails(at, &format!("eval {args}"), said);
    }
}

#[test]
fn prompts_that_people_typed_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/next/typed.jsonl");
    let text = fs::read_to_string(all).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 100);
    let write = |name: &str, lines: &[&str]| fs::write(at.join(name), lines.join("\n")).unwrap();
    write("few.jsonl", &lines[..15]);
    fails(at, "eval --captions few.jsonl --out scores", "16 to 100000 captions, got 15");
    let broken = lines[3].replace("\"count\"", "\"number\"");
    write("broken.jsonl", &[&lines[..3], &[broken.as_str()], &lines[4..20]].concat());
    fails(at, "eval --captions broken.jsonl --out scores", "line 4: missing field `count`");
    fails(at, "eval --captions missing.jsonl --out scores", "missing.jsonl");
    write("some.jsonl", &lines[..20]);
    works(at, "eval --captions some.jsonl --steps 1 --guidance 1 --out scores");
    let scores = Scores::open(at.join("scores/scores.json")).unwrap();
    assert_eq!((scores.count, scores.captions.as_deref()), (20, Some("some.jsonl")));
    assert!(scores.scenes.caption.of == 20 && scores.scenes.caption.share > 0.8, "{scores:?}");
    assert!(scores.drawn[0].valid.is_some());
    fails(at, "eval --captions some.jsonl --count 20 --out scores", "cannot be used with");
}
