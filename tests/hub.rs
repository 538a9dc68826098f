//! Checkpoints from the hub, played by a local server.
#![cfg(feature = "hub")]

mod golden;
mod server;
#[cfg(target_os = "linux")]
mod synced;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use diffuscope::checkpoint::hub::{Hub, HubId, fetch, fetch_headers};
use diffuscope::checkpoint::{Checkpoint, examine};
use diffuscope::tensor_file::{TensorFile, write_tensors};
use diffuscope::{Error, Result};
use server::{Asked, COMMIT, Server, etag, is_large};
use tempfile::TempDir;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
/// The repository's files that are opened.
const NEEDED: [&str; 11] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    UNET,
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// A small model, among the other files of published repositories.
fn repository() -> BTreeMap<String, Vec<u8>> {
    let folder = golden::path("pipeline/sd1");
    let mut files: BTreeMap<String, Vec<u8>> = NEEDED
        .iter()
        .map(|name| (name.to_string(), fs::read(folder.join(name)).unwrap()))
        .collect();
    let index = String::from_utf8(files["model_index.json"].clone()).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
    index["safety_checker"] =
        serde_json::json!(["stable_diffusion", "StableDiffusionSafetyChecker"]);
    index["feature_extractor"] = serde_json::json!(["transformers", "CLIPImageProcessor"]);
    files.insert("model_index.json".into(), index.to_string().into_bytes());
    for name in [
        "README.md",
        "v1-5 pruned#1.safetensors",
        "v1-5-pruned-emaonly.ckpt",
        "feature_extractor/preprocessor_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/flax_model.msgpack",
        "tokenizer/tokenizer.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/model.onnx",
        "vae/diffusion_pytorch_model.fp16.bin",
    ] {
        files.insert(name.into(), format!("nobody needs {name}").into_bytes());
    }
    files
}

struct Place {
    server: Server,
    folder: TempDir,
    hub: Hub,
}

fn place() -> Place {
    let (server, folder) = (Server::new(repository()), tempfile::tempdir().unwrap());
    let hub = Hub {
        endpoint: server.endpoint.clone(),
        cache: folder.path().join("hub"),
        token: Some("hf_secret".into()),
        offline: false,
        progress: false,
    };
    Place { server, folder, hub }
}

impl Place {
    fn fetch(&self, id: &str) -> Result<std::path::PathBuf> {
        fetch(&self.hub, &id.parse()?)
    }

    /// The names of the whole contents.
    fn blobs(&self) -> BTreeSet<String> {
        let folder = self.hub.cache.join("models--some--model/blobs");
        let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".incomplete")).collect()
    }

    fn fails(&self, id: &str, said: &[&str]) {
        let error = self.fetch(id).unwrap_err().to_string();
        for said in said {
            assert!(error.contains(said), "{id}: {error}");
        }
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        match entry.path().is_dir() {
            true => {
                let below = self::names(&entry.path());
                names.extend(below.into_iter().map(|file| format!("{name}/{file}")));
            }
            false => drop(names.insert(name)),
        }
    }
    names
}

fn needed() -> BTreeSet<String> {
    NEEDED.iter().map(|name| name.to_string()).collect()
}

/// The bytes of large files that were sent, and in how many answers.
fn sent(log: &[Asked]) -> (usize, usize) {
    let bodies: Vec<usize> = log.iter().filter(|asked| asked.cdn).map(|asked| asked.sent).collect();
    (bodies.iter().sum(), bodies.len())
}

#[test]
fn only_the_files_that_are_opened_are_fetched_and_only_once() -> Result<()> {
    let mut place = place();
    let path = place.fetch("some/model")?;
    assert_eq!(names(&path), needed());

    let log = place.server.log();
    let asked: BTreeSet<&str> =
        log.iter().filter_map(|asked| asked.path.strip_prefix("/some/model/resolve/")).collect();
    let expected: Vec<String> = NEEDED.iter().map(|name| format!("{COMMIT}/{name}")).collect();
    assert_eq!(asked, expected.iter().map(String::as_str).collect());
    let (large, small): (Vec<&Asked>, Vec<&Asked>) = log.iter().partition(|asked| asked.cdn);
    assert_eq!(large.len(), 3);
    assert!(large.iter().all(|asked| !asked.token && asked.method == "GET"), "{large:?}");
    assert!(small.iter().all(|asked| asked.token), "{small:?}");

    let (got, whole) = (Checkpoint::open(&path)?, Checkpoint::open(golden::path("pipeline/sd1"))?);
    assert_eq!((got.family, got.networks.len()), (whole.family, 3));
    assert!(examine(&got).is_whole());
    for name in NEEDED.iter().filter(|name| is_large(name)) {
        let (got, whole) = (
            TensorFile::open(path.join(name))?,
            TensorFile::open(golden::path("pipeline/sd1").join(name))?,
        );
        for tensor in whole.names() {
            assert!(got.tensor(tensor)?.equal(&whole.tensor(tensor)?), "{name} {tensor}");
        }
    }

    // The layout of Python's cache.
    let cache = place.hub.cache.join("models--some--model");
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(path, cache.join("snapshots").join(COMMIT));
    let files = repository();
    let etags = NEEDED.iter().map(|name| etag(name, &files[*name]));
    assert_eq!(place.blobs(), etags.collect());
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(path.join(UNET)).unwrap(),
        Path::new("../../../blobs").join(etag(UNET, &files[UNET]))
    );

    // A second time only the commit is asked for.
    assert_eq!(place.fetch("some/model")?, path);
    assert_eq!(place.server.log().len(), 1);
    assert_eq!(
        place.fetch("old/name")?,
        place.hub.cache.join("models--old--name/snapshots").join(COMMIT)
    );
    place.server.log();
    // A commit's files never change, so nothing is asked.
    assert_eq!(place.fetch(&format!("some/model@{COMMIT}"))?, path);
    place.hub.offline = true;
    assert_eq!(place.fetch("some/model")?, path);
    assert_eq!(place.fetch(&format!("some/model/{UNET}"))?, path.join(UNET));
    assert_eq!(place.server.log().len(), 0);
    fs::remove_file(path.join("vae/config.json")).unwrap();
    place.fails("some/model", &["offline", COMMIT, "has no vae/config.json"]);
    place.fails("some/model@v2", &["offline", "models--some--model", "no revision v2"]);
    place.fails("some/model/other.ckpt", &["offline", "no such file"]);
    place.fails("some/other", &["offline", "models--some--other"]);
    assert_eq!(place.server.log().len(), 0);

    // Another revision with the same contents links to them.
    place.hub.offline = false;
    place.server.state().commit = Some("f".repeat(40));
    let other = place.fetch("some/model@refs/pr/1")?;
    assert_eq!(names(&other), needed());
    assert_eq!(sent(&place.server.log()), (0, 0));
    assert_eq!(fs::read_to_string(cache.join("refs/refs/pr/1")).unwrap(), "f".repeat(40));

    // While the hub fails or does not answer, a complete cache is used.
    place.server.state().status = Some((503, ""));
    assert_eq!(place.fetch("some/model@refs/pr/1")?, other);
    place.hub.endpoint = "http://127.0.0.1:9".into();
    assert_eq!(place.fetch("some/model@refs/pr/1")?, other);
    place.fails(
        "some/model",
        &["http://127.0.0.1:9 cannot be reached", "does not have all the files"],
    );
    Ok(())
}

#[test]
fn weights_are_chosen_as_in_a_folder() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let place = place();
    let unet = TensorFile::open(golden::path("pipeline/sd1").join(UNET))?;
    let tensors: Vec<_> =
        unet.names().map(|name| (name.to_owned(), unet.tensor(name).unwrap())).collect();
    {
        let files = &mut place.server.state().files;
        let plain = files.remove(UNET).unwrap();
        // Shards of the plain weights are preferred to the variants.
        let (a, b) = tensors.split_at(tensors.len() / 2);
        let mut map = BTreeMap::new();
        for (shard, tensors) in [("a.safetensors", a), ("b.safetensors", b)] {
            write_tensors(folder.path().join(shard), tensors, &[])?;
            files.insert(format!("unet/{shard}"), fs::read(folder.path().join(shard)).unwrap());
            map.extend(tensors.iter().map(|(name, _)| (name.clone(), shard)));
        }
        let index = serde_json::json!({ "weight_map": map }).to_string().into_bytes();
        files.insert("unet/diffusion_pytorch_model.safetensors.index.json".into(), index);
        // The VAE has only a variant, the text encoder only a pickle.
        let vae = files.remove("vae/diffusion_pytorch_model.safetensors").unwrap();
        files.insert("vae/diffusion_pytorch_model.fp16.safetensors".into(), vae);
        files.retain(|name, _| !name.starts_with("text_encoder/model"));
        // A repository that is one network.
        files.insert("unet_alone".into(), plain);
    }
    let path = place.fetch("some/model")?;
    let mut expected = needed();
    for name in [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
    {
        expected.remove(name);
    }
    for name in [
        "unet/a.safetensors",
        "unet/b.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
    ] {
        expected.insert(name.into());
    }
    assert_eq!(names(&path), expected);

    place.server.state().files.remove("unet/b.safetensors");
    place.server.state().commit = Some("2".repeat(40));
    place.fails("some/model", &["the repository has no unet/b.safetensors"]);
    let index = r#"{"weight_map": {"x": ".."}}"#.into();
    let name = "unet/diffusion_pytorch_model.safetensors.index.json";
    place.server.state().files.insert(name.into(), index);
    place.server.state().commit = Some("3".repeat(40));
    place.fails("some/model", &["\"..\" is not a file in this folder"]);
    place.server.state().files.retain(|name, _| !name.starts_with("unet/d"));
    place.fails("some/model", &["no diffusion_pytorch_model.safetensors"]);

    {
        let files = &mut place.server.state().files;
        let plain = files.remove("unet_alone").unwrap();
        let config = files.remove("unet/config.json").unwrap();
        *files = BTreeMap::from([
            ("config.json".into(), config),
            ("diffusion_pytorch_model.safetensors".into(), plain),
            ("README.md".into(), Vec::new()),
        ]);
    }
    place.server.state().commit = Some("4".repeat(40));
    let alone = Checkpoint::open(place.fetch("some/model")?)?;
    assert!(alone.networks.contains_key("unet") && examine(&alone).is_whole());
    Ok(())
}

#[test]
fn an_id_can_name_one_file() -> Result<()> {
    let place = place();
    let path = place.fetch("some/model/v1-5 pruned#1.safetensors")?;
    assert_eq!(fs::read(&path).unwrap(), b"nobody needs v1-5 pruned#1.safetensors");
    assert_eq!(names(path.parent().unwrap()).len(), 1);
    let singles = "some/model/v1-5 pruned#1.safetensors, some/model/v1-5-pruned-emaonly.ckpt";
    place.fails("some/model/v2.ckpt", &["no such file; an id can name", singles]);
    place.server.state().files.remove("model_index.json");
    place.fails("some/model", &["no model_index.json", singles]);
    Ok(())
}

#[test]
fn an_interrupted_download_resumes() -> Result<()> {
    let id = format!("some/model/{UNET}");
    let files = repository();
    let (size, etag) = (files[UNET].len(), etag(UNET, &files[UNET]));
    let part = |place: &Place| {
        let name = format!("models--some--model/blobs/{etag}.incomplete");
        place.hub.cache.join(name)
    };

    // The connection breaks twice.
    let place = self::place();
    place.server.state().cuts = vec![100_000, 200_000];
    assert_eq!(fs::read(place.fetch(&id)?).unwrap(), files[UNET]);
    let log = place.server.log();
    assert_eq!(sent(&log), (size, 3), "every byte once");
    let from: Vec<_> = log.iter().filter(|asked| asked.cdn).map(|asked| asked.from).collect();
    assert_eq!(from, [None, Some(100_000), Some(300_000)]);
    assert!(!part(&place).exists());

    // A server that ignores ranges.
    let place = self::place();
    place.server.state().cuts = vec![100_000];
    place.server.state().ignores_ranges = true;
    assert_eq!(fs::read(place.fetch(&id)?).unwrap(), files[UNET]);
    assert_eq!(sent(&place.server.log()), (100_000 + size, 2));

    // An earlier program left a part, the whole file, more than the file, or wrong bytes.
    for (left, asked) in [
        (files[UNET][..300_000].to_vec(), (size - 300_000, 1)),
        (files[UNET].clone(), (0, 0)),
        ([&files[UNET][..], b"x"].concat(), (size, 1)),
    ] {
        let place = self::place();
        fs::create_dir_all(part(&place).parent().unwrap()).unwrap();
        fs::write(part(&place), left).unwrap();
        assert_eq!(fs::read(place.fetch(&id)?).unwrap(), files[UNET]);
        assert_eq!(sent(&place.server.log()), asked);
    }
    let place = self::place();
    fs::create_dir_all(part(&place).parent().unwrap()).unwrap();
    fs::write(part(&place), vec![0; 300_000]).unwrap();
    place.fails(&id, &["SHA-256", &etag, "removed"]);
    assert!(place.blobs().is_empty() && !part(&place).exists());
    assert_eq!(fs::read(place.fetch(&id)?).unwrap(), files[UNET]);

    // If the network stays down, what has arrived is kept.
    let place = self::place();
    place.server.state().cuts = vec![100_000, 0, 0, 0, 0, 0];
    place.fails(&id, &["100.00 kB of", "arrived", "run again"]);
    assert_eq!(fs::metadata(part(&place)).unwrap().len(), 100_000);
    assert!(place.blobs().is_empty());
    place.server.state().cuts.clear();
    place.server.log();
    place.fetch(&id)?;
    assert_eq!(sent(&place.server.log()), (size - 100_000, 1));
    Ok(())
}

#[test]
fn refusals_are_explained() {
    let mut place = place();
    let endpoint = place.hub.endpoint.clone();
    place.fails("some/missing", &[&endpoint, "no repository some/missing"]);
    place.fails("some/model@v2", &["no revision v2 of some/model"]);
    place.fails("round/about", &["redirects"]);
    let licence = format!("accept its licence on {endpoint}/some/model");
    for status in [401, 403] {
        place.server.state().status = Some((status, "GatedRepo"));
        place.fails("some/model", &[&licence, "token that was sent"]);
    }
    place.hub.token = None;
    place.fails("some/model", &[&licence, "set HF_TOKEN"]);
    // A gated repository's list of files is public, its files are not.
    place.server.state().status = None;
    place.server.state().file_status = Some((403, "GatedRepo"));
    place.fails("some/model", &["model_index.json", &licence, "set HF_TOKEN"]);
    place.server.state().file_status = Some((503, ""));
    place.fails("some/model", &["answers 503"]);
    place.server.state().status = Some((429, ""));
    place.fails("some/model", &["asked too often"]);
    assert!(place.blobs().is_empty());
    place.hub.endpoint = "huggingface.co".into();
    place.fails("some/model", &["HF_ENDPOINT", "https://huggingface.co"]);
    place.hub.endpoint = "ftp://huggingface.co".into();
    place.fails("some/model", &["HF_ENDPOINT"]);
}

#[test]
fn malformed_answers_are_refused() -> Result<()> {
    let place = place();
    let id = format!("some/model/{UNET}");
    let size = repository()[UNET].len();
    let wrong = |change: &dyn Fn(&mut server::State), said: &str| {
        change(&mut place.server.state());
        place.fails(&id, &[said]);
        assert!(place.blobs().is_empty());
        let mut state = place.server.state();
        let (files, log) = (std::mem::take(&mut state.files), Vec::new());
        *state = server::State { files, log, ..server::State::default() };
    };
    wrong(&|state| state.size = Some(size + 1), "the hub says");
    wrong(&|state| state.size = Some(size - 1), "the hub says");
    wrong(&|state| state.etag = Some("0".repeat(64)), "has the SHA-256");
    for etag in ["../../../x", "", ".x", "a/b", "a\\b"] {
        wrong(&|state| state.etag = Some(etag.into()), "the ETag");
    }
    for commit in ["../..", "", "a/b", "/etc", ".."] {
        wrong(&|state| state.commit = Some(commit.into()), "is not a commit");
    }
    wrong(&|state| state.location = Some("elsewhere".into()), "not an address");
    // An error page is not the file.
    let nowhere = format!("{}/nothing", place.server.cdn());
    wrong(&|state| state.location = Some(nowhere.clone()), UNET);
    wrong(&|state| state.location = Some("ftp://x/y".into()), "not an address");
    wrong(&|state| state.list = Some("<html>".into()), "does not answer as the hub does");
    for name in
        ["../evil.json", "/etc/evil", "unet/../../x", "a//b", "unet\\..\\x", "a\nb", ".", ""]
    {
        let list = serde_json::json!({ "sha": COMMIT, "siblings": [{ "rfilename": name }] });
        wrong(&|state| state.list = Some(list.to_string()), "leads out of the repository");
    }
    // Nothing was written outside the cache.
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 1);
    place.fetch(&id)?;
    assert!(
        place
            .server
            .log()
            .iter()
            .any(|asked| place.server.cdn() != place.hub.endpoint && asked.cdn)
    );
    assert!(matches!("some/model/x".parse::<HubId>(), Err(Error::Argument { .. })));
    Ok(())
}

/// A mirror whose files lie on another host, which may take no HEAD: both are asked as GET is, and the token stays here.
#[test]
fn a_mirror_that_redirects_to_another_host_is_followed() -> Result<()> {
    for refuses_head in [false, true] {
        let place = place();
        place.server.state().mirror = true;
        place.server.state().refuses_head = refuses_head;
        let path = place.fetch("some/model")?;
        assert_eq!(names(&path), needed());
        let files = repository();
        for name in NEEDED {
            assert_eq!(fs::read(path.join(name)).unwrap(), files[name], "{name}");
        }
        let log = place.server.log();
        assert!(log.iter().filter(|asked| asked.cdn).all(|asked| !asked.token), "{log:?}");
    }
    Ok(())
}

/// A login page that is answered with 200 is no file, whatever it is called and whatever type it claims.
#[test]
fn a_web_page_in_place_of_a_file_is_refused_and_not_kept() -> Result<()> {
    let place = place();
    let page = "  <!DOCTYPE html>\n<html><title>Log in</title></html>";
    for name in ["model_index.json", "merges.txt", "unet/config.json", UNET] {
        for kind in ["text/html; charset=utf-8", "application/octet-stream"] {
            place.server.state().page = Some((name, kind, page));
            place.fails("some/model", &[name, "a web page came in its place", "HF_ENDPOINT"]);
            assert!(!place.blobs().contains("a-page"), "{name} is kept");
            let folder = tempfile::tempdir().unwrap();
            let headers = fetch_headers(&place.hub, &"some/model".parse()?, folder.path());
            assert!(headers.is_err(), "{name}");
        }
    }
    let place = self::place();
    place.server.state().page = Some(("config.json", "text/plain", "<p>Log in</p>"));
    place.fails("some/model", &["config.json: a web page came in its place"]);
    place.server.state().page = None;
    assert_eq!(names(&place.fetch("some/model")?), needed());
    Ok(())
}

#[test]
fn a_report_needs_only_headers() -> Result<()> {
    let place = place();
    let folder = tempfile::tempdir().unwrap();
    let path = fetch_headers(&place.hub, &"some/model".parse()?, folder.path())?;
    assert_eq!((path.as_path(), names(&path)), (folder.path(), needed()));
    let report = |path: &Path| Ok::<_, Error>(examine(&Checkpoint::open(path)?));
    let (got, whole) = (report(&path)?, report(&golden::path("pipeline/sd1"))?);
    assert!(got.is_whole());
    assert_eq!(got.family, whole.family);
    for (got, whole) in got.networks.iter().zip(&whole.networks) {
        assert_eq!((got.parameters, &got.dtypes), (whole.parameters, &whole.dtypes));
    }
    let etags = needed().into_iter().filter(|name| !is_large(name));
    let files = repository();
    assert_eq!(place.blobs(), etags.map(|name| etag(&name, &files[&name])).collect());
    // The cache does not count as complete.
    let offline = Hub { offline: true, ..place.hub.clone() };
    assert!(fetch(&offline, &"some/model".parse()?).is_err());

    // Files in the cache are not asked for again.
    let fetched = place.fetch("some/model")?;
    place.server.log();
    let path = fetch_headers(&place.hub, &"some/model".parse()?, folder.path())?;
    assert_eq!(names(&path), needed());
    assert_eq!(sent(&place.server.log()), (0, 0));
    assert!(report(&fetched)?.is_whole());

    let id = "some/model/v1-5 pruned#1.safetensors".parse()?;
    let error = fetch_headers(&place.hub, &id, folder.path()).unwrap_err().to_string();
    assert!(error.contains("no header"), "{error}");
    Ok(())
}

/// The program in an environment of its own.
#[cfg(feature = "cli")]
fn program(place: &Place, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_diffuscope"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HF_")) {
        command.env_remove(name);
    }
    command
        .args(args)
        .current_dir(place.folder.path())
        .env("DIFFUSCOPE_DEVICE", "cpu")
        .env("NO_PROXY", "127.0.0.1")
        .env("HF_HOME", place.folder.path())
        .env("HF_ENDPOINT", format!("{}/", place.hub.endpoint))
        .env("HF_TOKEN", "hf_secret")
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    command
}

#[cfg(feature = "cli")]
#[test]
fn the_program_takes_ids() -> Result<()> {
    let place = place();
    let run = |args: &[&str], offline: &str| {
        let out = program(&place, args).env("HF_HUB_OFFLINE", offline).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.success(), text(out.stdout), text(out.stderr))
    };
    let (done, _, err) = run(&["schedule", "--model", "some/model"], "0");
    assert!(done && err.contains("1 files"), "{err}");
    let log = place.server.log();
    assert!(log.iter().all(|asked| asked.token && !asked.cdn), "{log:?}");
    let blobs = BTreeSet::from([etag("", &repository()["scheduler/scheduler_config.json"])]);
    assert_eq!(place.blobs(), blobs);

    let (done, out, err) = run(&["inspect", "some/model"], "0");
    assert!(
        done && out.starts_with("some/model: ") && out.contains("every tensor is there"),
        "{out} {err}"
    );
    assert!(place.blobs().iter().all(|etag| etag.len() == 40));
    let (done, _, err) = run(&["inspect", "some/model"], "1");
    assert!(!done && err.contains("offline") && err.contains("text_encoder"), "{err}");

    // The program is killed in the middle of a file.
    place.server.state().stalls = Some(50_000);
    let draw = ["generate", "a star", "--model", "some/model", "--steps", "2", "--out", "a.png"];
    let mut killed = program(&place, &draw).spawn().unwrap();
    let parts = || {
        let entries = fs::read_dir(place.hub.cache.join("models--some--model/blobs")).unwrap();
        let parts = entries.map(|e| e.unwrap().path()).filter(|path| path.extension().is_some());
        parts.map(|path| fs::metadata(path).unwrap().len()).sum::<u64>()
    };
    for _ in 0..600 {
        if parts() == 50_000 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(parts(), 50_000);
    place.server.state().stalls = None;
    place.server.log();
    let (done, _, err) = run(&draw, "0");
    assert!(done && err.contains("3 files") && !err.contains('\r'), "{err}");
    let files = repository();
    let large: usize =
        needed().iter().filter(|name| is_large(name)).map(|name| files[name].len()).sum();
    assert_eq!(sent(&place.server.log()), (large - 50_000, 3));
    let (done, _, err) = run(&draw, "1");
    assert!(done && place.server.log().is_empty(), "{err}");
    // It could be a wrong path or a wrong name, so the error says both.
    for args in [&["generate", "a star", "--model", "some/modell"][..], &["inspect", "some/modell"]]
    {
        let (done, _, err) = run(args, "0");
        let both =
            err.contains("no such file or folder; ") && err.contains("no repository some/modell");
        assert!(!done && both, "{err}");
    }
    Ok(())
}

/// `PYTHON=... cargo test --features hub --test hub -- --ignored` with a Python that has huggingface_hub.
#[test]
#[ignore = "needs a Python with huggingface_hub"]
fn python_finds_what_was_fetched_and_the_reverse() -> Result<()> {
    let mut place = place();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let run = |cache: &Path, code: &str| {
        let mut command = std::process::Command::new(&python);
        command.args(["-c", code]).env("HF_HUB_CACHE", cache).env("HF_HOME", place.folder.path());
        command.env("HF_ENDPOINT", &place.server.endpoint).env("HF_HUB_DISABLE_XET", "1");
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let path = place.fetch("some/model")?;
    place.server.log();
    let found = run(
        &place.hub.cache,
        "from huggingface_hub import snapshot_download, hf_hub_download\n\
         print(snapshot_download('some/model', local_files_only=True))\n\
         hf_hub_download('some/model', 'unet/diffusion_pytorch_model.safetensors', local_files_only=True)",
    );
    assert_eq!(Path::new(&found), path);
    let version = run(&place.hub.cache, "import huggingface_hub as h; print(h.__version__)");
    let log = place.server.log();
    assert!(log.iter().all(|asked| !asked.path.contains("model")), "{log:?}");

    let theirs = place.folder.path().join("theirs");
    let code = "from huggingface_hub import snapshot_download as s; print(s('some/model', token='hf_secret'))";
    let found = run(&theirs, code);
    place.server.log();
    place.hub.cache = theirs;
    place.hub.offline = true;
    let path = place.fetch("some/model")?;
    assert_eq!(Path::new(&found), path);
    assert!(examine(&Checkpoint::open(&path)?).is_whole());
    place.hub.offline = false;
    assert_eq!(place.fetch("some/model")?, path);
    assert_eq!(place.server.log().len(), 1);
    println!("huggingface_hub {version}");
    Ok(())
}

/// Lengths are numbers from elsewhere: two of them may not even add up.
#[test]
fn lengths_that_no_file_has_are_refused() {
    let place = place();
    for size in [usize::MAX, usize::MAX / 2 + 1, 1 << 41] {
        place.server.state().size = Some(size);
        place.fails("some/model", &[&format!("it cannot be {size} bytes long")]);
    }
    assert!(place.blobs().iter().all(|name| !name.ends_with(".incomplete")));
}

/// What is fetched is on the disk, whole, before it has its name.
#[cfg(target_os = "linux")]
#[test]
fn a_download_is_on_the_disk_before_it_has_its_name() -> Result<()> {
    let place = place();
    let path = place.fetch("some/model")?;
    let here = |file: &synced::Synced| file.path.starts_with(place.folder.path());
    let synced: Vec<_> = synced::synced().into_iter().filter(here).collect();
    for blob in NEEDED.iter().map(|name| path.join(name).canonicalize().unwrap()) {
        let name = blob.file_name().unwrap().to_str().unwrap();
        let under = blob.with_file_name(format!("{name}.incomplete"));
        let one = synced.iter().find(|file| file.path == under).unwrap();
        assert_eq!(one.content, fs::read(&blob).unwrap());
        assert!(!one.beside.iter().any(|(path, _)| *path == blob), "{name}");
    }
    Ok(())
}
