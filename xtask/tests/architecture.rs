//! How the library is built: a file uses only what stands on its own storey or below it, no files use each other in a
//! circle, no name stands for two types, and a function fits on a page. What a file uses is read from its `use` lines and
//! from the paths in its code, through re-exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up: the modules of a storey, and what it knows. `docs/architecture.md` tells their story.
const STOREYS: [(&str, &[&str]); 9] = [
    (
        "ground: errors, checks, devices",
        &[
            "error",
            "check",
            "memory",
            "short",
            "cpu",
            "device",
            "environment",
            "cores",
            "interrupt",
        ],
    ),
    (
        "mathematics: tensors and numbers",
        &[
            "timesteps",
            "rates",
            "schedule",
            "forward",
            "prediction",
            "guidance",
            "noise",
            "denoiser",
            "sampler",
            "prompt",
        ],
    ),
    ("files: bytes in, nothing executed", &["write_file", "tensor_file", "picture"]),
    ("networks: configs and named tensors", &["kernels", "models"]),
    ("checkpoints: what a file is", &["checkpoint"]),
    ("composition: the stages in order", &["pipeline"]),
    ("looking: measures, then draws", &["measure", "plot", "figures", "notebook", "explore"]),
    ("training: scenes, loops, scores", &["scenes", "eval", "train"]),
    ("the program: options to calls", &["bin"]),
];

#[test]
fn no_file_uses_what_stands_above_it() {
    let house = House::read(&source());
    let up: Vec<String> = house
        .uses()
        .into_iter()
        .filter(|(from, to)| house.storey(from) < house.storey(to))
        .map(|(from, to)| {
            let (here, there) = (STOREYS[house.storey(&from)].0, STOREYS[house.storey(&to)].0);
            format!("{from} ({here}) uses {to} ({there})")
        })
        .collect();
    assert!(up.is_empty(), "imports that go up:\n{}", up.join("\n"));
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let house = House::read(&source());
    if let Some(circle) = circle(&house.uses()) {
        panic!("a circle of files: {}", circle.join(" -> "));
    }
}

#[test]
fn no_type_name_stands_for_two_things() {
    let house = House::read(&source());
    let twice = defined_twice(&house);
    assert!(twice.is_empty(), "types defined more than once:\n{}", twice.join("\n"));
}

#[test]
fn a_function_fits_on_a_page() {
    // Tables and parsers may be longer.
    const LONG: [&str; 1] = ["tensor_file/pickle.rs step"];
    let house = House::read(&source());
    let long: Vec<String> =
        house.files.iter().flat_map(|(file, code)| functions_above(80, file, code)).collect();
    let long: Vec<&String> =
        long.iter().filter(|name| !LONG.iter().any(|start| name.starts_with(start))).collect();
    assert!(long.is_empty(), "functions of more than 80 lines: {long:?}");
}

#[test]
fn one_file_writes_results() {
    // A log, a download and a notebook's last error are appended to, a lock is empty, a report's file lies in a new
    // folder, and what the system is told is no file.
    const OTHERS: [&str; 6] = [
        "bin/bench/memory.rs",
        "train/loss_log.rs",
        "notebook/cell_errors.rs",
        "checkpoint/hub/partial_file.rs",
        "checkpoint/hub/cache.rs",
        "checkpoint/hub/header.rs",
    ];
    let house = House::read(&source());
    let own: Vec<&String> = house
        .files
        .iter()
        .filter(|(file, _)| **file != "write_file.rs" && !OTHERS.contains(&file.as_str()))
        .filter(|(file, _)| !file.ends_with("tests.rs"))
        .filter(|(_, code)| writes(code))
        .map(|(file, _)| file)
        .collect();
    assert!(own.is_empty(), "write with `write_file`, which leaves no half of a file: {own:?}");
    assert!(writes("fs::write(path, x)") && writes("File::create_new(x)"));
    assert!(!writes("write_file(x)\nmod tests {\nfs::write(path, x)"));
}

/// Whether code opens files to write to them, its tests left out.
fn writes(code: &str) -> bool {
    let code = code.split("mod tests {").next().unwrap_or_default();
    let ways = [
        "fs::write(",
        "fs::copy(",
        "fs::rename(",
        "File::create",
        "fs::OpenOptions",
        "File::options",
    ];
    ways.iter().any(|way| code.contains(way))
}

#[test]
fn a_second_type_and_a_long_function_are_noticed() {
    let two = [
        ("noise.rs", "pub struct Grid; type Error = (); trait A { type B; }"),
        ("plot/mod.rs", "enum Grid { A }\nimpl A for Grid {\n    type B = u8;\n}\nstruct Error;"),
    ];
    assert_eq!(defined_twice(&House::of(two)), ["Grid: noise.rs, plot/mod.rs"]);
    let body = "    x;\n".repeat(79);
    let page = format!("fn page() {{\n{}}}\n", &body[..body.len() - "    x;\n".len()]);
    assert!(functions_above(80, "a.rs", &page).is_empty());
    let more = format!("impl A {{\n    pub fn more(\n    ) {{\n{body}    }}\n}}\n");
    assert_eq!(functions_above(80, "a.rs", &more), ["a.rs more: 82"]);
}

/// Names of structs, enums, traits and type aliases that files define more than once; `Error` and `Result` may be.
fn defined_twice(house: &House) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, code) in &house.files {
        for line in code.split(['\n', ';', '}']) {
            // An alias that is indented belongs to a trait.
            let alias = line.starts_with("type ") || line.starts_with("pub");
            let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            let mut words = words.by_ref().filter(|word| !word.is_empty());
            let word = words.find(|word| !["pub", "crate", "super"].contains(word));
            let defines = match word {
                Some("struct" | "enum" | "trait") => true,
                Some("type") => alias,
                _ => false,
            };
            if let Some(name) = words.next().filter(|_| defines) {
                places.entry(name).or_default().push(file);
            }
        }
    }
    places
        .into_iter()
        .filter(|(name, files)| files.len() > 1 && !["Error", "Result"].contains(name))
        .map(|(name, files)| format!("{name}: {}", files.join(", ")))
        .collect()
}

/// The functions with more lines than this, from the line of their name to the line of their last brace.
fn functions_above(most: usize, file: &str, code: &str) -> Vec<String> {
    let lines: Vec<&str> = code.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut long = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let words = line.trim_start().split(' ').take(4).collect::<Vec<_>>();
        let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
        if !words[..at].iter().all(|w| w.starts_with("pub") || ["const", "unsafe"].contains(w)) {
            continue;
        }
        let name = words.get(at + 1).and_then(|word| word.split(['(', '<']).next());
        let end = lines[i..]
            .iter()
            .position(|l| indent(l) == indent(line) && l.trim_start().starts_with('}'))
            .unwrap_or(0);
        if end + 1 > most {
            long.push(format!("{file} {}: {}", name.unwrap_or_default(), end + 1));
        }
    }
    long
}

#[test]
fn an_import_that_goes_up_and_a_circle_are_noticed() {
    let house = House::of([
        ("lib.rs", "mod noise; mod plot; mod pipeline;"),
        ("noise.rs", "use crate::plot::Figure; // use crate::pipeline::X;"),
        ("plot/mod.rs", "mod sheet; mod card; pub use card::Figure;"),
        ("plot/card.rs", "use super::sheet::{Sheet, Tile};"),
        ("plot/sheet.rs", "fn f() { super::Figure::new(); \"crate::pipeline\"; }"),
        ("pipeline/mod.rs", "/// [`crate::bin::Main`]\nuse crate::plot::Figure;"),
    ]);
    let uses = house.uses();
    let expected = [
        ("noise.rs", "plot/card.rs"),
        ("pipeline/mod.rs", "plot/card.rs"),
        ("plot/card.rs", "plot/sheet.rs"),
        ("plot/mod.rs", "plot/card.rs"),
        ("plot/sheet.rs", "plot/card.rs"),
    ];
    assert_eq!(uses, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    assert!(house.storey("noise.rs") < house.storey("plot/card.rs"));
    assert_eq!(circle(&uses).unwrap(), ["plot/card.rs", "plot/sheet.rs", "plot/card.rs"]);
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src")
}

/// The files of the library, by their paths below `src`: their code without comments and texts.
struct House {
    files: BTreeMap<String, String>,
    /// Where each module's code is: `["plot", "card"]` to `plot/card.rs`.
    modules: BTreeMap<Vec<String>, String>,
}

impl House {
    fn read(src: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![src.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    let name = path.strip_prefix(src).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        assert!(files.len() > 50, "the source is elsewhere: {}", src.display());
        Self::of(files.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }

    fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let files: BTreeMap<String, String> =
            files.into_iter().map(|(name, text)| (name.to_owned(), code(text))).collect();
        let modules = files.keys().map(|name| (module(name), name.clone())).collect();
        Self { files, modules }
    }

    fn storey(&self, file: &str) -> usize {
        let first = file.trim_end_matches(".rs").split('/').next().unwrap_or_default();
        if first == "lib" {
            return STOREYS.len();
        }
        STOREYS
            .iter()
            .position(|(_, modules)| modules.contains(&first))
            .unwrap_or_else(|| panic!("src/{file} is on no storey: list it in {}", file!()))
    }

    /// Which file uses which, itself left out.
    fn uses(&self) -> BTreeSet<(String, String)> {
        let mut uses = BTreeSet::new();
        for (file, code) in &self.files {
            let here = module(file);
            // In a file's own tests `super` is the file.
            let (code, tests) = code.split_once("mod tests {").unwrap_or((code, ""));
            let of_tests = paths(tests).into_iter().map(|path| match path[0].as_str() {
                "super" => [vec!["self".to_owned()], path[1..].to_vec()].concat(),
                _ => path,
            });
            for path in paths(code).into_iter().chain(of_tests) {
                let to = self.resolve(&here, &path, 0);
                if let Some(to) = to.filter(|to| to != file && to != "lib.rs") {
                    uses.insert((file.clone(), to));
                }
            }
        }
        uses
    }

    /// The file in which what a path names is defined.
    fn resolve(&self, here: &[String], path: &[String], depth: usize) -> Option<String> {
        let mut module = here.to_vec();
        let mut rest = path.iter().map(String::as_str).peekable();
        match *rest.peek()? {
            "crate" if here.first().is_some_and(|first| first == "bin") && depth == 0 => {
                module.truncate(2);
                rest.next();
            }
            "crate" | "diffuscope" => {
                module.clear();
                rest.next();
            }
            "self" => {
                rest.next();
            }
            "super" => {
                while rest.next_if_eq(&"super").is_some() {
                    module.pop();
                }
            }
            _ => (),
        }
        while let Some(name) = rest.peek() {
            let below = [module.clone(), vec![(*name).to_owned()]].concat();
            if !self.modules.contains_key(&below) {
                break;
            }
            module = below;
            rest.next();
        }
        let file = self.modules.get(&module)?;
        // A child of the crate that is none of its modules is another crate.
        let roots = ["crate", "self", "super", "diffuscope"];
        let named = path.first().is_some_and(|first| roots.contains(&first.as_str()));
        if module == here && !named {
            return None;
        }
        let Some(name) = rest.next() else { return Some(file.clone()) };
        let exported = paths_of_exports(&self.files[file]).into_iter().find(|(as_, _)| as_ == name);
        match exported {
            Some((_, path)) if depth < 8 => self.resolve(&module, &path, depth + 1),
            _ => Some(file.clone()),
        }
    }
}

/// `plot/card.rs` is the module `["plot", "card"]`, `plot/mod.rs` is `["plot"]`.
fn module(file: &str) -> Vec<String> {
    let mut parts: Vec<String> =
        file.trim_end_matches(".rs").split('/').map(ToOwned::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// The text without comments, strings and characters.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => {
                for c in rest.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
                out.push('\n');
            }
            '"' => {
                while let Some(c) = rest.next() {
                    match c {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => (),
                    }
                }
                out.push_str("\"\"");
            }
            '\'' => {
                // A character such as '"' or '\''; a lifetime has no second quote.
                let ahead: Vec<char> = rest.clone().take(3).collect();
                match ahead[..] {
                    ['\\', _, '\''] => drop(rest.by_ref().nth(2)),
                    [_, '\'', ..] => drop(rest.by_ref().nth(1)),
                    _ => out.push('\''),
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Every path that code names, those of `use` trees one by one.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = trees(code).into_iter().map(|(_, path)| path).collect();
    let words = |text: &str| -> Vec<String> { text.split("::").map(ToOwned::to_owned).collect() };
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let starts = ["crate::", "super::", "diffuscope::"];
    for start in starts {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(is_path) {
                continue;
            }
            let end = code[at..].find(|c| !is_path(c)).map_or(code.len(), |n| at + n);
            // The tree of a `use`: its paths are known already.
            if code[end..].starts_with('{') {
                continue;
            }
            all.push(words(code[at..end].trim_end_matches(':')));
        }
    }
    all
}

/// The names that `pub use` gives to others, and the path of each.
fn paths_of_exports(code: &str) -> Vec<(String, Vec<String>)> {
    trees(code).into_iter().filter_map(|(public, path)| public.then_some(path)).map(named).collect()
}

fn named(mut path: Vec<String>) -> (String, Vec<String>) {
    let last = path.pop().unwrap_or_default();
    let (name, as_) = match last.split_once(" as ") {
        Some((name, as_)) => (name.to_owned(), as_.to_owned()),
        None => (last.clone(), last),
    };
    path.push(name);
    (as_, path)
}

/// The paths of all `use` lines, and whether they are public.
fn trees(code: &str) -> Vec<(bool, Vec<String>)> {
    let mut all = Vec::new();
    for statement in code.split([';', '}']).flat_map(|part| part.split('\n')).collect::<Vec<_>>() {
        // Only finds where a statement begins; the tree itself may go over lines and braces.
        let line = statement.trim_start();
        let public = line.starts_with("pub");
        let Some(at) = line.find("use ").filter(|&at| at == 0 || public) else { continue };
        if public && !line[..at].trim_end().ends_with([')', 'b']) {
            continue;
        }
        let offset = statement.as_ptr() as usize - code.as_ptr() as usize
            + (statement.len() - line.len())
            + at
            + "use ".len();
        let end = code[offset..].find(';').map_or(code.len(), |n| offset + n);
        branches(&[], code[offset..end].trim(), &mut |path| all.push((public, path)));
    }
    all
}

fn branches(before: &[String], tree: &str, found: &mut impl FnMut(Vec<String>)) {
    let (stem, inner) = match tree.split_once('{') {
        Some((stem, inner)) => (stem, inner.trim_end().strip_suffix('}')),
        None => (tree, None),
    };
    let mut path = before.to_vec();
    let words = stem.split("::").map(str::trim).filter(|word| !word.is_empty() && *word != "self");
    path.extend(words.map(ToOwned::to_owned));
    if stem.trim().starts_with("self") && before.is_empty() {
        path.insert(0, "self".into());
    }
    let Some(inner) = inner else { return found(path) };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    branches(&path, inner[start..at].trim(), found);
                }
                start = at + 1;
            }
            _ => (),
        }
    }
}

/// One circle, if there is any: its files in order, the first one again at the end.
fn circle(uses: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    let mut way = Vec::new();
    uses.iter().find_map(|(from, _)| walk(from, uses, &mut way, &mut done))
}

fn walk<'a>(
    file: &'a str,
    uses: &'a BTreeSet<(String, String)>,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<String>> {
    if let Some(at) = way.iter().position(|seen| *seen == file) {
        return Some(way[at..].iter().chain([&file]).map(ToString::to_string).collect());
    }
    if done.contains(file) {
        return None;
    }
    way.push(file);
    let found =
        uses.iter().filter(|(from, _)| from == file).find_map(|(_, to)| walk(to, uses, way, done));
    way.pop();
    done.insert(file);
    found
}
