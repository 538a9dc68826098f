//! The interactive page: what it holds, and what a browser makes of it.
#![cfg(feature = "cli")]

mod golden;

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diffuscope::checkpoint::{Checkpoint, OpenOptions};
use diffuscope::explore::{self, CELL_LIMIT, FILE_LIMIT, Recording, component_bytes, replay};
use diffuscope::guidance::{Guidance, Projection};
use diffuscope::measure::{latent_rgb, token_maps};
use diffuscope::picture::to_rgb8;
use diffuscope::pipeline::{InitImage, Request, StableDiffusion, Trace};
use diffuscope::prediction::Prediction;
use diffuscope::sampler::{Clip, Sampler};
use diffuscope::{Result, noise};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

fn random_model(name: &str, prediction: Prediction) -> Result<StableDiffusion> {
    let options = OpenOptions { prediction: Some(prediction), ..OpenOptions::default() };
    let checkpoint = Checkpoint::open_with(golden::path(&format!("pipeline/{name}")), &options)?;
    StableDiffusion::from_checkpoint(&checkpoint, Kind::Float, Device::Cpu)
}

/// Traces of every sampler, every prediction and every rule of guidance, with their names.
fn all_kinds() -> Result<Vec<(String, Trace)>> {
    let epsilon = random_model("sd1", Prediction::Epsilon)?;
    let request = Request { num_inference_steps: 6, guidance: 7.5.into(), ..Request::new("a cat") };
    let mut all = Vec::new();
    let mut add = |name: &str, model: &StableDiffusion, request: Request| -> Result<()> {
        all.push((name.to_owned(), model.trace(&request)?));
        Ok(())
    };
    for name in Sampler::names() {
        add(name, &epsilon, Request { sampler: Some(name.parse()?), ..request.clone() })?;
    }
    let sampler = |name: &str| Ok::<_, diffuscope::Error>(Some(name.parse::<Sampler>()?));
    for (name, prediction) in [("v", Prediction::V), ("sample", Prediction::Sample)] {
        let model = random_model("sd2", prediction)?;
        for method in ["ddim", "euler-a", "dpm++2m-karras", "unipc", "pndm-rk"] {
            let request = Request { sampler: sampler(method)?, ..request.clone() };
            add(&format!("{name}-{method}"), &model, request)?;
        }
    }
    let guided = |guidance: Guidance| Request { guidance, ..request.clone() };
    let projection = Some(Projection::default());
    for (name, guidance) in [
        ("rescaled", Guidance { rescale: 0.7, ..9.0.into() }),
        ("interval", Guidance { interval: Some((0.3, 0.8)), ..9.0.into() }),
        ("schedule", Guidance { scales: vec![1., 9., 0., 3., -1., 7.], ..1.0.into() }),
        ("projected", Guidance { projection, ..9.0.into() }),
        (
            "all-rules",
            Guidance { projection, rescale: 0.4, interval: Some((0., 0.7)), ..5.0.into() },
        ),
        ("zero", 0.0.into()),
        ("one", 1.0.into()),
    ] {
        add(name, &epsilon, guided(guidance))?;
    }
    add("eta", &epsilon, Request { sampler: Some(Sampler::ddim(0.7)), ..request.clone() })?;
    for (name, clip) in
        [("clipped", Clip::Range(1.)), ("dynamic", Clip::Dynamic { ratio: 0.9, max: 3. })]
    {
        for method in ["ddim", "dpm++2m"] {
            let request =
                Request { clip: Some(clip), sampler: sampler(method)?, ..request.clone() };
            add(&format!("{name}-{method}"), &epsilon, request)?;
        }
    }
    let mut left = 4;
    all.push((
        "stopped".to_owned(),
        epsilon.trace_with(&request, |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?,
    ));
    let (width, height) = epsilon.size(None, None)?;
    let image = noise::standard_normal(&[1, 3, height, width], 3)?.clamp(-1., 1.);
    let mask = image.narrow(1, 0, 1).ge(0.).to_kind(Kind::Float);
    let init = Some(InitImage { mask: Some(mask), ..InitImage::new(image, 0.8) });
    all.push(("kept-region".to_owned(), epsilon.trace(&Request { init, ..request.clone() })?));
    Ok(all)
}

#[test]
fn every_step_of_every_sampler_is_taken_again_from_its_trace() -> Result<()> {
    for (name, trace) in all_kinds()? {
        let made = trace.making.as_ref().unwrap();
        let again = replay(&trace, &made.guidance)?;
        assert_eq!(again.steps.len(), trace.len(), "{name}");
        // The one prediction of a guided step that needs no other is the guided one; rounding may differ between passes.
        assert!(again.residuals.iter().all(|r| *r < 1e-5), "{name}: {:?}", again.residuals);
        for (step, x_0) in again.steps.iter().zip(trace.x_0.unbind(0)) {
            assert!(golden::gap(&step.x_0, &x_0) < 1e-5, "{name}");
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_a_page_is_refused() -> Result<()> {
    let sd = StableDiffusion::tiny()?;
    let few = |request: Request| Request { num_inference_steps: 2, ..request };
    let said = |result: Result<explore::Page>| result.map(|_| ()).unwrap_err().to_string();
    let three = sd.trace(&few(Request::batch(["a cat", "a dog", "a boat"])))?;
    assert!(
        said(explore::page(&three)).contains("one or two, got 3"),
        "{}",
        said(explore::page(&three))
    );
    let init = Some(InitImage::new(three.image.narrow(0, 0, 1), 0.));
    let none = sd.trace(&few(Request { init, ..Request::new("a cat") }))?;
    assert!(said(explore::page(&none)).contains("at least one step"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.safetensors");
    let one = sd.trace(&few(Request::new("a cat")))?;
    one.save(&path, &[])?;
    assert!(said(explore::page(&Trace::load(&path)?)).contains("a file of a trace keeps neither"));
    let recording = Recording::new(vec![one])?;
    let small = said(recording.page(10_000, None));
    assert!(small.contains("at most 0.0 MB") && small.contains("fewer guidance scales"), "{small}");
    let other = sd.trace(&few(Request::new("a dog")))?;
    let unlike = Recording::new(vec![sd.trace(&few(Request::new("a cat")))?, other]);
    assert!(unlike.is_err_and(|e| e.to_string().contains("the same prompts, seeds and steps")));
    let twice = Recording::draw(&sd, &few(Request::new("a cat")), &[1., 3., 1.], false, || ());
    assert!(twice.is_err_and(|e| e.to_string().contains("each once, got 1")));
    assert!(Recording::new(Vec::new()).is_err());
    Ok(())
}

#[test]
fn the_component_is_small_and_a_page_stays_within_its_limit() -> Result<()> {
    println!("component: {} bytes", component_bytes());
    assert!(component_bytes() <= 42_000, "{}", component_bytes());
    let sd = StableDiffusion::tiny()?;
    let request = Request { num_inference_steps: 6, ..Request::new("a red apple on the grass") };
    let mut passes = 0;
    let recording = Recording::draw(&sd, &request, &[0., 1., 7.], true, || passes += 1)?;
    // Three runs, the second predictions of two of them, and three looks at their attention.
    assert_eq!(passes, 6 * (3 + 2 + 3));
    let decode = |latents: &Tensor| sd.decode(latents);
    let whole = recording.page(FILE_LIMIT, Some(&decode))?;
    assert!(whole.notes().is_empty(), "{:?}", whole.notes());
    let bare = recording.page(FILE_LIMIT, None)?.html().len();
    let mut before = whole.html().len();
    for share in [0.7, 0.4, 0.1] {
        let limit = bare + 3000 + ((whole.html().len() - bare) as f64 * share) as usize;
        let page = recording.page(limit, Some(&decode))?;
        assert!(page.html().len() <= limit && page.html().len() < before);
        assert!(!page.notes().is_empty());
        before = page.html().len();
    }
    Ok(())
}

/// A second look gives the prediction that a run did not need, and sees what the run saw.
#[test]
fn a_second_look_is_the_same_network_at_the_same_samples() -> Result<()> {
    for folder in ["pipeline/sd1", "families/sdxl"] {
        let sd = StableDiffusion::open(golden::path(folder), Kind::Float, Device::Cpu)?;
        let prompts = Request::batch(["a cat", "two dogs"]);
        let ddim = Some(Sampler::ddim(0.));
        let request = Request { num_inference_steps: 3, sampler: ddim, ..prompts };
        let at = |scale: f64| Request { guidance: scale.into(), ..request.clone() };
        let guided = sd.trace(&at(7.))?;
        for scale in [0., 1.] {
            let (prepared, mut trace) = (sd.prepare(&at(scale))?, sd.trace(&at(scale))?);
            let mut passes = 0;
            sd.ask_for_both(&prepared, &mut trace, || passes += 1)?;
            assert_eq!(passes, 3, "{folder}");
            // All runs begin with the same noise.
            for (got, expected) in [
                (&trace.output_uncond[0], &guided.output_uncond[0]),
                (&trace.output_cond[0], &guided.output_cond[0]),
            ] {
                let gap = golden::gap(got.as_ref().unwrap(), expected.as_ref().unwrap());
                assert!(gap < 1e-5, "{folder}, guidance {scale}: {gap}");
            }
            let mut steps = 0;
            sd.attend_again(&prepared, &trace, |i, maps| {
                assert_eq!(i, steps);
                steps += 1;
                assert!(maps.iter().all(|map| map.cross));
                let sums = token_maps(&maps, (4, 4))?.sum_dim_intlist(1, false, Kind::Float);
                assert!((sums - 1.).abs().max().double_value(&[]) < 1e-4);
                Ok(())
            })?;
            assert_eq!(steps, 3);
        }
        let other = sd.prepare(&Request { num_inference_steps: 2, ..at(7.) })?;
        assert!(sd.attend_again(&other, &guided, |_, _| Ok(())).is_err());
    }
    Ok(())
}

#[test]
fn the_command_writes_one_page_and_refuses_what_it_cannot_draw() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let program = env!("CARGO_BIN_EXE_diffuscope");
        let mut command = Command::new(program);
        let out = command.arg("explore").args(args).current_dir(folder.path());
        let out = out.env("DIFFUSCOPE_DEVICE", "cpu").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let few = ["--steps", "2", "--guidance", "1,5", "--seeds", "4"];
    for expected in ["diffuscope-a-cat.html", "diffuscope-a-cat-2.html"] {
        let (code, out, err) = run(&[&["a cat"], &few[..]].concat());
        assert_eq!((code, out.trim()), (Some(0), expected), "{err}");
    }
    let page = fs::read_to_string(folder.path().join("diffuscope-a-cat.html")).unwrap();
    let command = "diffuscope explore 'a cat' --guidance 1,5 --seeds 4 --steps 2 --dtype f32";
    assert!(page.contains(command) && page.contains("sha256:"));
    assert!(!page.contains(env!("CARGO_MANIFEST_DIR")), "no path of the machine is shown");
    assert!(page.len() < FILE_LIMIT);
    let before = fs::read_dir(folder.path()).unwrap().count();
    for (args, said) in [
        (&["--guidance", "nan"][..], "--guidance: expected finite numbers"),
        (&["--guidance", "3,3", "--steps", "1"], "each once, got 3"),
        (&["--seeds", "x"], "--seeds"),
        (&["--steps", "0"], "steps: expected 1 to"),
        (&["--sampler", "dpm"], "dpm++2m"),
        (&["--out", "page.png"], "--out: expected FILE.html"),
        (&["--out", "none/page.html"], "there is no folder none"),
        (&["--model", "none"], "none"),
        (&["another", "and one more"], "unexpected value 'and one more'"),
    ] {
        let (code, _, err) = run(&[&["a cat"], args].concat());
        assert!(matches!(code, Some(1 | 2)) && err.contains(said), "{args:?}: {err}");
        assert!(!err.contains("panicked") && !err.contains("cannot go on"), "{err}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
}

/// The largest page that is written by itself: how long it takes to open, and how it answers while it plays.
/// `cargo test --features cli --test explore -- --ignored --nocapture`
#[test]
#[ignore = "measures time, which a busy machine takes away"]
fn a_page_of_8_megabytes_opens_in_a_second_and_plays_without_a_dropped_input() -> Result<()> {
    let chromium = chromium().expect("a Chromium on the path or in DIFFUSCOPE_CHROMIUM");
    let sd = StableDiffusion::tiny()?;
    let started = Instant::now();
    let request = Request::new("a red apple on the grass, cartoon");
    let recording = Recording::draw(&sd, &request, &[0., 1., 3., 7., 15.], false, || ())?;
    let drawn = started.elapsed();
    let page = recording.page(FILE_LIMIT, Some(&|latents: &Tensor| sd.decode(latents)))?;
    println!("drawn in {drawn:.1?}, decoded in {:.1?}", started.elapsed() - drawn);
    println!("{} bytes; {}", page.html().len(), page.notes().join("; "));
    let mut browsed = Browsed::new();
    let url = browsed.save("large.html", &page)?;
    browsed.ask("times", json!({ "do": "times", "page": url }));
    let times = &browsed.answers(&chromium)["times"];
    println!("milliseconds: {times}");
    assert!(page.html().len() > FILE_LIMIT * 8 / 10);
    assert!(times["shown"].as_f64().unwrap() < 1000., "{times}");
    assert_eq!(times["lost"], 0);
    Ok(())
}

/// What is asked of the browser, by name, and what it answered.
struct Browsed {
    tasks: serde_json::Map<String, Value>,
    folder: PathBuf,
}

impl Browsed {
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("explore");
        fs::create_dir_all(&folder).unwrap();
        Self { tasks: serde_json::Map::new(), folder }
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}", self.folder.join(name).display())
    }

    fn save(&self, name: &str, page: &explore::Page) -> Result<String> {
        page.save(self.folder.join(name))?;
        Ok(self.url(name))
    }

    fn ask(&mut self, name: &str, task: Value) {
        self.tasks.insert(name.to_owned(), task);
    }

    fn answers(&self, chromium: &Path) -> Value {
        let tasks = self.folder.join("tasks.json");
        fs::write(&tasks, Value::from(self.tasks.clone()).to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("xtask/python/explore_browser.py");
        let out =
            Command::new("python3").arg(script).arg(chromium).arg(tasks).arg(&self.folder).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }
}

/// A Chromium: what `DIFFUSCOPE_CHROMIUM` names, or one of the usual names on the path, or where macOS has it.
fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("DIFFUSCOPE_CHROMIUM") {
        return Some(named.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    let mac = PathBuf::from("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome");
    on_path.chain([mac]).find(|place| place.is_file())
}

/// Says so past the test's own output, which nobody sees of a test that passes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

const HOSTILE: [&str; 2] = [
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1> \" ' & {{blocks}}",
    "\u{1f34e} تفاحة حمراء <!-- \u{202e}x",
];

#[test]
fn a_browser_without_a_network_shows_all_of_it_and_says_the_same_as_the_library() -> Result<()> {
    let Some(chromium) = chromium() else {
        say(
            "skipped: no Chromium on the path or in DIFFUSCOPE_CHROMIUM; the interactive page was not opened",
        );
        return Ok(());
    };
    let mut browsed = Browsed::new();
    let mut pages = Vec::new();
    for (name, trace) in all_kinds()? {
        pages.push(browsed.save(&format!("kind-{name}.html"), &explore::page(&trace)?)?);
    }
    browsed.ask("badges", json!({ "do": "badges", "pages": pages }));

    let sd = StableDiffusion::tiny()?;
    let decode = |latents: &Tensor| sd.decode(latents);
    let two = Request {
        num_inference_steps: 6,
        seeds: vec![3, 4, 3, 4],
        ..Request::batch([
            "a red apple on the grass",
            "a red apple on the grass",
            "a blue car at night",
            "a blue car at night",
        ])
    };
    let recording =
        Recording::draw(&sd, &two, &[1., 7.], true, || ())?.about("Command", "a <b>test</b>");
    let url = browsed.save("two.html", &recording.page(FILE_LIMIT, Some(&decode))?)?;
    browsed.ask("keyboard", json!({ "do": "keyboard", "page": url }));
    let fragment = "step=3&run=1&seed=1&w=3.3&show=guided&as=channels&side=B&token=2";
    browsed.ask("fragment", json!({ "do": "fragment", "page": url, "fragment": fragment }));
    browsed.ask("pointer", json!({ "do": "pointer", "page": url }));
    browsed.ask("plain", json!({ "do": "plain", "page": url }));
    browsed.ask("layout", json!({ "do": "layout", "page": url, "name": "two" }));
    let axe =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(".lab/explore/node_modules/axe-core/axe.min.js");
    match axe.is_file() {
        true => browsed.ask("axe", json!({ "do": "axe", "page": url, "axe": axe })),
        false => say(
            "skipped: no axe-core (npm install --prefix .lab/explore axe-core@4.10.3); its rules were not checked",
        ),
    }

    let one =
        Request { num_inference_steps: 5, ..Request::new("a red apple on the grass, cartoon") };
    let drawn = Recording::draw(&sd, &one, &[1., 7.], false, || ())?;
    let decoder = RememberingDecoder { sd: &sd, decoded: RefCell::default() };
    let page = drawn.page(FILE_LIMIT, Some(&|latents: &Tensor| decoder.decode(latents)))?;
    let url = browsed.save("one.html", &page)?;
    let expected = expected_pixels(&decoder, &one)?;
    let at: Vec<_> = expected.iter().map(|e| (&e.fragment, &e.shown)).collect();
    browsed.ask("pixels", json!({ "do": "pixels", "page": url, "at": at }));

    let hostile = Request { num_inference_steps: 2, ..Request::batch(HOSTILE) };
    let url = browsed.save("hostile.html", &explore::page(&sd.trace(&hostile)?)?)?;
    browsed.ask("texts", json!({ "do": "texts", "page": url }));
    let cell =
        explore::page(&sd.trace(&Request { num_inference_steps: 30, ..one })?)?.cell_html()?;
    assert!(cell.starts_with("<img ") && cell.len() < CELL_LIMIT, "{}", cell.len());
    println!("a cell of 30 steps: {} bytes", cell.len());
    let place = browsed.folder.join("cell.txt");
    fs::write(&place, cell).unwrap();
    browsed.ask("cell", json!({ "do": "cell", "cell": place }));

    let answers = browsed.answers(&chromium);
    check_badges(&answers["badges"]);
    check_keyboard(&answers["keyboard"]);
    let seen = &answers["fragment"];
    assert_eq!(seen["seen"][0], seen["seen"][1], "{seen}");
    assert_eq!(seen["seen"][0][0], "guided channels 3 3.3", "{seen}");
    assert_eq!(answers["pointer"]["complaints"], json!([]));
    assert!(answers["pointer"]["moved"].as_f64().unwrap() > 1., "{}", answers["pointer"]);
    assert!(
        answers["plain"]["still"].as_f64().unwrap() > 100. && answers["plain"]["hidden"] == true
    );
    assert_eq!(answers["layout"], json!([]));
    if axe.is_file() {
        assert_eq!(answers["axe"]["violations"], json!([]));
        assert!(answers["axe"]["passes"].as_u64().unwrap() > 100);
    }
    check_pixels(&answers["pixels"], &expected);
    let texts = &answers["texts"];
    assert_eq!(texts["prompts"], json!(HOSTILE));
    assert_eq!((&texts["hacked"], &texts["foreign"]), (&Value::Null, &json!(0)), "{texts}");
    assert_eq!(texts["complaints"], json!([]));
    let (trusted, untrusted) = (&answers["cell"]["trusted"], &answers["cell"]["untrusted"]);
    assert_eq!((&trusted["image"], &trusted["complaints"]), (&json!(0), &json!([])), "{trusted}");
    assert_eq!(trusted["badge"], "good");
    assert!(
        untrusted["image"].as_f64().unwrap() > 300. && untrusted["first"] == true,
        "{untrusted}"
    );
    Ok(())
}

fn check_badges(badges: &Value) {
    let badges = badges.as_object().unwrap();
    assert!(badges.len() > 40, "{}", badges.len());
    let mut worst = (0., "");
    for (page, answer) in badges {
        assert_eq!(answer[1], json!([]), "{page}");
        let residual = answer[0].as_f64().unwrap_or(f64::NAN);
        assert!(residual < 1e-3, "{page}: {residual}");
        worst = if residual >= worst.0 { (residual, page) } else { worst };
    }
    println!(
        "{} pages of every kind, residual at most {:.1e} ({})",
        badges.len(),
        worst.0,
        worst.1
    );
}

fn check_keyboard(answer: &Value) {
    let reached: Vec<&str> =
        answer["reached"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    for control in ["play", "step", "w", "runs", "seeds", "as", "show", "side", "chip"] {
        assert!(reached.contains(&control), "{control} is not among {reached:?}");
    }
    assert!(!reached.iter().any(|r| r.contains("without a visible focus")), "{reached:?}");
    let expected = json!({
        "step": "3", "end": "6", "w": "7.1", "own": null, "runs": "1", "as": "linear", "show": "xt", "seeds": "1",
        "side": "B", "token": "1", "page": "2",
    });
    for (control, value) in expected.as_object().unwrap() {
        assert_eq!(&answer["used"][control], value, "{control}: {answer}");
    }
    assert!(answer["used"]["played"].as_str().unwrap().parse::<u32>().unwrap() >= 4);
    assert!(answer["status"].as_str().unwrap().contains("sample, step"), "{answer}");
    assert_eq!(answer["complaints"], json!([]));
}

/// What the canvas is to hold at a fragment.
struct ExpectedPixels {
    fragment: String,
    shown: String,
    pixels: Vec<u8>,
    /// How far a value may be off: pictures are lossless, and a preview is rounded from numbers of 16 bits.
    tolerance: u8,
}

/// A decoder that knows what it made of which latents: in a batch of another size the last bit may differ.
struct RememberingDecoder<'a> {
    sd: &'a StableDiffusion,
    decoded: RefCell<Vec<(Tensor, Tensor)>>,
}

impl RememberingDecoder<'_> {
    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let pictures = self.sd.decode(latents)?;
        let each =
            (0..latents.size()[0]).map(|i| (latents.narrow(0, i, 1), pictures.narrow(0, i, 1)));
        self.decoded.borrow_mut().extend(each);
        Ok(pictures)
    }

    /// The first picture that was made of these latents.
    fn made_of(&self, latents: &Tensor) -> Tensor {
        let near = |(of, _): &&(Tensor, Tensor)| golden::gap(of, latents) < 1e-5;
        self.decoded
            .borrow()
            .iter()
            .find(near)
            .expect("these latents were decoded")
            .1
            .shallow_clone()
    }
}

/// Ten steps and scales: pictures of the run's own scale and of another, previews of a scale between.
fn expected_pixels(
    decoder: &RememberingDecoder<'_>,
    request: &Request,
) -> Result<Vec<ExpectedPixels>> {
    let mut all = Vec::new();
    let traces = [1., 7.]
        .map(|scale: f64| decoder.sd.trace(&Request { guidance: scale.into(), ..request.clone() }));
    let [one, seven] = traces;
    let (one, mut seven) = (one?, seven?);
    let both = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 0);
    let fit = latent_rgb(&both(&one.latents, &seven.latents), &both(&one.image, &seven.image))?;
    let mut add = |fragment: String, shown: String, picture: Tensor, tolerance| -> Result<()> {
        let pixels = to_rgb8(&picture)?.remove(0).pixels;
        all.push(ExpectedPixels { fragment, shown, pixels, tolerance });
        Ok(())
    };
    for step in [1, 3, 5] {
        let i = step as i64 - 1;
        let picture = decoder.made_of(&seven.x_0.get(i));
        add(format!("run=7&step={step}"), format!("x0 picture {step} own"), picture, 0)?;
        let turned = replay(&seven, &1.0.into())?.steps;
        let picture = decoder.made_of(&turned[i as usize].x_0);
        add(format!("run=7&step={step}&w=1"), format!("x0 picture {step} 1"), picture, 0)?;
        let between = replay(&seven, &4.2.into())?.steps;
        let picture = fit.preview(&between[i as usize].x_0)?;
        add(format!("run=7&step={step}&w=4.2"), format!("x0 linear {step} 4.2"), picture, 2)?;
    }
    // The next sample at a scale between: of the memory of the steps before, nothing has changed.
    let scales = vec![7., 7., 4.2, 7., 7.];
    if let Some(made) = &mut seven.making {
        made.guidance = Guidance { scales, ..7.0.into() };
    }
    let made = seven.making.as_ref().unwrap();
    let next = &replay(&seven, &made.guidance)?.steps[2].prev_sample;
    add("run=7&step=3&w=4.2&show=next".into(), "next linear 3 4.2".into(), fit.preview(next)?, 2)?;
    Ok(all)
}

fn check_pixels(answer: &Value, expected: &[ExpectedPixels]) {
    assert_eq!(answer["complaints"], json!([]));
    assert_eq!(expected.len(), 10);
    for (got, expected) in answer["pixels"].as_array().unwrap().iter().zip(expected) {
        let rgba = STANDARD.decode(got[2].as_str().unwrap()).unwrap();
        let rgb: Vec<u8> = rgba.chunks(4).flat_map(|p| p[..3].to_vec()).collect();
        assert_eq!(rgb.len(), expected.pixels.len(), "{}", expected.fragment);
        let apart = rgb.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        println!("{}: at most {apart} of 255 apart", expected.shown);
        assert!(apart <= expected.tolerance, "{}: {apart}", expected.fragment);
    }
}
