//! Files of weights, damaged in every way that a generator comes upon; prompts, scheduler configurations and requests
//! that nobody would write: reading them may fail, and nothing else.
//!
//!     DIFFUSCOPE_FUZZ_SECONDS=1800 cargo test --release --test fuzz -- --ignored --nocapture
//!
//! A coverage-guided fuzzer needs a nightly compiler and a harness of its own; this one is an ordinary test. It
//! knows the formats instead: it damages the pickle inside an archive and the header before the tensors and puts
//! the rest right again, so that a reader's outer checks do not shield its inner ones. `DIFFUSCOPE_FUZZ_SEED`
//! chooses another sequence. A panic, an execution of more than 20 seconds or 1 GiB of allocations ends it and
//! keeps the input.

mod golden;
mod odd;
mod torch;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use diffuscope::checkpoint::{Checkpoint, Lora, examine};
use diffuscope::pipeline::StableDiffusion;
use diffuscope::tensor_file::TensorFile;
use tch::{Device, Kind};

/// Counts what is allocated at the moment.
struct Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
const LIMIT: usize = 1 << 30;

// SAFETY: the system's allocator, with a count beside it.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(held, Relaxed);
        if held > LIMIT {
            give_up("more than 1 GiB was allocated");
        }
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// The execution that is running, and when it began, in milliseconds.
static EXECUTION: AtomicU64 = AtomicU64::new(0);
static BEGAN: AtomicU64 = AtomicU64::new(u64::MAX);

fn give_up(why: &str) -> ! {
    HELD.store(0, Relaxed);
    eprintln!("execution {}: {why}; its input is {KEPT}", EXECUTION.load(Relaxed));
    std::process::abort();
}

/// SplitMix64, Steele, Lea and Flood 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// A file that is well, by its parts.
#[derive(Clone)]
enum Seed {
    Archive(Vec<(String, Vec<u8>)>),
    Safetensors { header: Vec<u8>, data: Vec<u8> },
}

impl Seed {
    fn read(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap();
        if !file.starts_with(b"PK") {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            return Self::Safetensors {
                header: file[8..8 + length].into(),
                data: file[8 + length..].into(),
            };
        }
        let number = |at: usize, n: usize| {
            file[at..at + n].iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte))
        };
        let end = (0..file.len() - 3).rfind(|&i| file[i..].starts_with(b"PK\x05\x06")).unwrap();
        let (mut at, mut entries) = (number(end + 16, 4), Vec::new());
        for _ in 0..number(end + 10, 2) {
            let (length, start) = (number(at + 24, 4), number(at + 42, 4));
            let name =
                String::from_utf8(file[at + 46..at + 46 + number(at + 28, 2)].into()).unwrap();
            let data = start + 30 + number(start + 26, 2) + number(start + 28, 2);
            entries.push((name, file[data..data + length].to_vec()));
            at += 46 + number(at + 28, 2) + number(at + 30, 2) + number(at + 32, 2);
        }
        Self::Archive(entries)
    }

    fn write(&self) -> Vec<u8> {
        match self {
            Self::Archive(entries) => {
                let entries: Vec<_> = entries.iter().map(|(n, b)| torch::entry(n, b)).collect();
                torch::zip(&entries, |i| i)
            }
            Self::Safetensors { header, data } => {
                [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
            }
        }
    }

    /// The part that says what the rest is.
    fn inner(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Archive(entries) => {
                let pickle =
                    entries.iter().position(|(name, _)| name.ends_with("data.pkl")).unwrap();
                &mut entries[pickle].1
            }
            Self::Safetensors { header, .. } => header,
        }
    }
}

/// What readers stumble over: instructions, names, numbers.
const FRAGMENTS: [&[u8]; 32] = [
    b"(",
    b")",
    b"R",
    b"b",
    b"Q",
    b"}",
    b"]",
    b"u",
    b"e",
    b"t",
    b"2",
    b"0",
    b"N",
    b".",
    b"\x81",
    b"\x93",
    b"h\0",
    b"q\0",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xff",
    b"J\xff\xff\xff\x7f",
    b"j\xff\xff\xff\xff",
    b"X\xff\xff\xff\xff",
    b"cos\nsystem\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"18446744073709551615",
    b"-1",
    b"[[[[[[[[",
    b"\"F8_E8M0\"",
    b"\"\\ud800\"",
];

fn damage(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let to = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(10) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = random.next() as u8,
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            4 => drop(bytes.drain(at.min(to)..to)),
            5 => {
                let copy = bytes[at.min(to)..to].to_vec();
                bytes.splice(at..at, copy);
            }
            6 | 7 => drop(bytes.splice(at..at, FRAGMENTS[random.below(32)].iter().copied())),
            8 => {
                let start = random.below(other.len());
                let stop = (start + random.below(64)).min(other.len());
                bytes.splice(at..at.max(to), other[start..stop].iter().copied());
            }
            _ => {
                let (fragment, room) = (FRAGMENTS[random.below(32)], bytes.len() - at);
                let n = fragment.len().min(room);
                bytes[at..at + n].copy_from_slice(&fragment[..n]);
            }
        }
    }
    if random.below(20) == 0 {
        bytes.truncate(random.below(bytes.len() + 1));
    }
}

/// Low-rank changes of three layers of a small model, in two spellings, as a file without a checksum.
fn low_rank() -> Seed {
    let (kohya, peft) = (golden::open("lora/sd1_kohya"), golden::open("lora/sd1_diffusers"));
    let chosen = ["conv_in", "mid_block_attentions_0_proj_in", "time_embedding.linear_1"];
    let mut tensors = Vec::new();
    for file in [&kohya, &peft] {
        for name in file.names().filter(|name| chosen.iter().any(|part| name.contains(part))) {
            let values = file.tensor(name).unwrap().to_kind(Kind::Float).flatten(0, -1);
            let bytes: Vec<u8> = Vec::<f32>::try_from(values)
                .unwrap()
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect();
            let shape: Vec<usize> = file.shape(name).unwrap().iter().map(|&n| n as usize).collect();
            // One layer in kohya's keys, the others in PEFT's.
            if name.contains("mid_block_attentions_0_proj_in") || !name.starts_with("lora_") {
                tensors.push((name.to_owned(), shape, bytes));
            }
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (
            name,
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes)
                .unwrap(),
        )
    });
    let file = safetensors::serialize(views, None).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    Seed::Safetensors { header: file[8..8 + length].into(), data: file[8 + length..].into() }
}

/// Reads everything that can be read of a file; whether it could be opened.
fn execute(path: &Path, model: &mut StableDiffusion) -> bool {
    // What a LoRA does to a model can be undone, whatever it was.
    if let Ok(lora) = Lora::open(path) {
        let _ = model.set_loras(&[(lora, 1.)]);
        model.set_loras(&[]).unwrap();
    }
    let Ok(file) = TensorFile::open(path) else { return false };
    for name in file.names() {
        // A tensor of a file that opened can be read.
        assert_eq!(file.tensor(name).unwrap().size(), file.shape(name).unwrap());
    }
    if let Ok(checkpoint) = Checkpoint::open(path) {
        let report = examine(&checkpoint);
        assert!(!report.family.is_empty());
    }
    true
}

const KEPT: &str = "in the folder that is named at the start";

fn fuzz(seconds: f64) {
    let golden = golden::path("checkpoint");
    let small = ["tensors.ckpt", "lightning.ckpt", "tensors.safetensors"];
    let mut seeds: Vec<Seed> =
        small.iter().map(|name| Seed::read(&golden.join("odd").join(name))).collect();
    seeds.insert(0, low_rank());
    let few = seeds.len();
    seeds.extend(["sd1.ckpt", "sd2.ckpt"].map(|name| Seed::read(&golden.join(name))));
    seeds.push(Seed::read(&golden::path("families/sdxl/single.safetensors")));
    let mut model =
        StableDiffusion::open(golden::path("pipeline/sd1"), Kind::Float, Device::Cpu).unwrap();
    let raw: Vec<Vec<u8>> = seeds.iter().map(Seed::write).collect();
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    // The folder stays where something goes wrong.
    let folder: PathBuf = folder.unwrap().keep();
    let path = folder.join("fuzz.ckpt");
    println!("in {}", folder.display());
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let mut random = Random(variable("DIFFUSCOPE_FUZZ_SEED").unwrap_or(0));

    std::fs::write(&path, &raw[0]).unwrap();
    let whole = Lora::open(&path).and_then(|lora| model.set_loras(&[(lora, 1.)]));
    whole.expect("low-rank changes that are well");

    let models: Vec<StableDiffusion> = FAMILIES
        .iter()
        .map(|name| StableDiffusion::open(golden::path(name), Kind::Float, Device::Cpu).unwrap())
        .collect();
    let start = Instant::now();
    let now = move || start.elapsed().as_millis() as u64;
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if now().saturating_sub(BEGAN.load(Relaxed)) > 20_000 {
                give_up("it does not end");
            }
        }
    });
    let (mut executions, mut opened) = (0u64, 0u64);
    // Of prompts, configurations and requests: how many there were, and how many of them could be met.
    let mut others = [[0u64; 2]; 3];
    while start.elapsed().as_secs_f64() < seconds {
        let kind = random.below(6);
        if kind < 3 {
            BEGAN.store(now(), Relaxed);
            let met = other_input(kind, &models, &folder, &mut random);
            BEGAN.store(u64::MAX, Relaxed);
            others[kind][0] += 1;
            others[kind][1] += u64::from(met);
            EXECUTION.fetch_add(1, Relaxed);
            continue;
        }
        // The large ones seldom: most of what goes wrong fits into a small file.
        let large = random.below(200) == 0;
        let i = if large { few + random.below(seeds.len() - few) } else { random.below(few) };
        let other = &raw[random.below(few)];
        let mut bytes = if random.below(4) == 0 {
            raw[i].clone()
        } else {
            let mut seed = seeds[i].clone();
            damage(seed.inner(), other, &mut random);
            seed.write()
        };
        if random.below(3) == 0 {
            damage(&mut bytes, other, &mut random);
        }
        std::fs::write(&path, &bytes).unwrap();
        EXECUTION.fetch_add(1, Relaxed);
        BEGAN.store(now(), Relaxed);
        opened += u64::from(execute(&path, &mut model));
        BEGAN.store(u64::MAX, Relaxed);
        executions += 1;
    }
    std::fs::remove_dir_all(&folder).unwrap();
    for (name, [all, met]) in ["prompts", "scheduler configurations", "requests"].iter().zip(others)
    {
        println!("{all} {name}, {met} of them met");
    }
    println!(
        "{executions} files in {seconds} s, {opened} of them opened, at most {:.0} MB allocated at once",
        MOST.load(Relaxed) as f64 / 1e6
    );
    assert!(opened > 0 && opened < executions);
    assert!(others.iter().all(|[all, met]| *all < 100 || (*met > 0 && met < all)));
}

/// Small models of every family.
const FAMILIES: [&str; 7] = [
    "pipeline/sd1",
    "pipeline/sd2",
    "families/sdxl",
    "families/lcm",
    "families/inpainting",
    "families/depth",
    "families/upscaler",
];

/// A prompt, a scheduler's configuration or a request; whether it could be met.
fn other_input(
    kind: usize,
    models: &[StableDiffusion],
    folder: &Path,
    random: &mut Random,
) -> bool {
    let model = &models[random.below(models.len())];
    let keep = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    match kind {
        0 => {
            let prompt = odd::prompt(random);
            keep("prompt.txt", &prompt);
            odd::read_prompt(&prompt, model, random)
        }
        1 => {
            let path = folder.join("scheduler_config.json");
            keep("scheduler_config.json", &odd::scheduler(random));
            odd::plan_with(&path, random)
        }
        _ => {
            let seed = random.next();
            let request = odd::request(model, &mut Random(seed));
            let all = &request.prompts;
            keep("request.txt", &format!("seed {seed}\n{model:?}\n{request:?}\n{all:?}"));
            odd::meet(&request, model)
        }
    }
}

#[test]
fn readers_survive_a_moment_of_damage() {
    fuzz(2.);
}

#[test]
#[ignore = "takes as long as DIFFUSCOPE_FUZZ_SECONDS says, 60 without it"]
fn readers_survive_damage() {
    let seconds = std::env::var("DIFFUSCOPE_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    fuzz(seconds.unwrap_or(60.));
}
