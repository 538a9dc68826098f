//! The program that checks what needs a GPU, as a dry run on the CPU: it passes here, so that it is right when a GPU comes;
//! and it notices what is wrong.
#![cfg(feature = "gpu-check")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use diffuscope::device::{Cuda, VARIABLE, cuda};
use diffuscope::tensor_file::{TensorFile, write_tensors};
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn gpu_check(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    command.arg("--root").arg(root).args(args).env_remove(VARIABLE);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn report(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_dry_run_passes_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("cpu.json");
    let args = ["--device", "cpu", "--quick", "--out", out.to_str().unwrap()];
    let done = gpu_check(Path::new(ROOT), &args);
    let said = text(&done.stdout);
    println!("{said}{}", text(&done.stderr));
    assert!(done.status.success());
    let json = report(&out);
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(json["failed"], 0);
    assert_eq!(json["machine"]["device"], "cpu");
    assert_eq!(json["machine"]["date"].as_str().unwrap().len(), "2026-01-01".len());
    for check in checks {
        let name = check["name"].as_str().unwrap();
        assert!(said.contains(name), "{name} has no line");
        match check["verdict"].as_str().unwrap() {
            "passed" => assert!(check["figure"].as_f64() <= check["bound"].as_f64(), "{check}"),
            // Where there is no Python.
            "not_run" => assert!(name.contains("doctor") && check["note"] != "", "{check}"),
            other => panic!("{name}: {other}"),
        }
    }
    let listed = text(&gpu_check(Path::new(ROOT), &["--list"]).stdout);
    assert!(listed.lines().count() > checks.len(), "the slow ones are listed too");
}

/// A copy of what one check reads, with another number in it.
#[test]
fn a_check_that_fails_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let family = "tests/golden/families/upscaler";
    for folder in [family, "tests/golden/families", "data/tiny"] {
        copy(&Path::new(ROOT).join(folder), &place.path().join(folder), folder == family);
    }
    let numbers = place.path().join(family).join("euler.safetensors");
    let file = TensorFile::open(&numbers).unwrap();
    let changed: Vec<_> =
        file.names().map(|name| (name.to_owned(), file.tensor(name).unwrap() * 1.01)).collect();
    drop(file);
    write_tensors(&numbers, &changed, &[]).unwrap();

    let out = place.path().join("cpu.json");
    let only = ["--only", "upscaler in"];
    let args = ["--device", "cpu", "--out", out.to_str().unwrap()];
    let done = gpu_check(place.path(), &[&args[..], &only[..]].concat());
    let said = text(&done.stdout);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("FAILED") && said.contains("1 passed, 1 failed"), "{said}");
    let json = report(&out);
    let [exact, rounded] = json["checks"].as_array().unwrap().as_slice() else { panic!("{json}") };
    // One in a hundred is more than f32 may be apart, and less than f16.
    assert_eq!((&exact["verdict"], &rounded["verdict"]), (&"failed".into(), &"passed".into()));
    assert!((exact["figure"].as_f64().unwrap() - 0.01).abs() < 1e-3, "{exact}");

    // Files that are missing fail the check that reads them, and not the others.
    fs::remove_file(&numbers).unwrap();
    let done = gpu_check(place.path(), &["--device", "cpu", "--only", "upscaler in f32"]);
    let said = text(&done.stdout);
    assert!(!done.status.success() && said.contains("euler.safetensors"), "{said}");
}

/// libtorch looks for its CUDA library when it is first seeded, and not again: a program that draws noise before it picks a
/// device has a GPU nevertheless. The library here only says that there is one.
#[cfg(target_os = "linux")]
#[test]
fn a_gpu_is_found_also_after_noise_was_drawn() {
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(std::path::PathBuf::from) else { return };
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("lib")).unwrap();
    let include = libtorch.join("include");
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or("c++".into()));
    compiler.args(["-std=c++20", "-shared", "-fPIC", "-I"]).arg(&include);
    compiler.arg("-I").arg(include.join("torch/csrc/api/include"));
    compiler.arg(Path::new(ROOT).join("tests/golden/devices/cuda_hooks.cpp"));
    compiler.arg("-o").arg(place.path().join("lib/libtorch_cuda.so"));
    compiler.arg("-L").arg(libtorch.join("lib")).args(["-lc10", "-ltorch_cpu"]);
    assert!(compiler.status().unwrap().success());
    for task in ["pick", "pick-after-noise"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
        command.args(["--child", task]).env("LIBTORCH", place.path()).env_remove(VARIABLE);
        let done = command.output().unwrap();
        assert_eq!(text(&done.stdout), "cuda:0\n", "{task}: {}", text(&done.stderr));
    }
}

fn copy(from: &Path, to: &Path, whole: bool) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true if whole => copy(&path, &to, true),
            true => (),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

#[test]
fn without_a_gpu_it_says_so_and_writes_nothing() {
    if matches!(cuda(), Cuda::Usable(_)) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (root, args, words) in [
        (ROOT, &[][..], "--device: expected a GPU, cuda:0, got none: "),
        (ROOT, &[], "--device cpu is a dry run"),
        (ROOT, &["--device", "cuda:7"], "device cuda:7: "),
        (ROOT, &["--device", "gpu"], "expected cpu, cuda, cuda:N or mps"),
        (ROOT, &["--device", "cpu", "--only", "nothing"], "--list prints the names"),
        (folder.path().to_str().unwrap(), &["--device", "cpu"], "without tests/golden"),
    ] {
        let done = gpu_check(Path::new(root), args);
        let said = text(&done.stderr);
        assert!(!done.status.success() && said.contains(words), "{said}");
    }
    let before =
        fs::metadata(Path::new(ROOT).join("docs/gpu.json")).ok().map(|m| m.modified().unwrap());
    let dry = ["--device", "cpu", "--only", "initial latents"];
    assert!(gpu_check(Path::new(ROOT), &dry).status.success());
    let after =
        fs::metadata(Path::new(ROOT).join("docs/gpu.json")).ok().map(|m| m.modified().unwrap());
    assert_eq!(before, after, "a dry run writes no report of its own accord");
}
