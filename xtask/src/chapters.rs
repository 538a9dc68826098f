//! The chapters' code as a program, for machines on which no kernel can be built: its own package, made in `target`.

use crate::Result;
use crate::project::{Project, write};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The name of the package and of its program.
pub const NAME: &str = "chapters";

const MANIFEST: &str = r#"# Made of the notebooks by `cargo xtask gpu-check`.
[package]
name = "chapters"
version = "0.0.0"
edition = "2024"

# With the features of the other program, so that all that both are built from is compiled once.
[dependencies]
diffuscope = { path = "ROOT", features = ["gpu-check"] }

[workspace]
"#;

/// A chapter's name, then the code of its cells.
type Chapter = (String, Vec<String>);

/// Writes the package; returns its manifest.
pub fn make(project: &Project) -> Result<PathBuf> {
    let folder = project.root.join("target/gpu-check").join(NAME);
    let chapters: Vec<Chapter> =
        crate::notebooks::all(project)?.iter().map(|path| read(path)).collect::<Result<_>>()?;
    let lock = std::fs::read_to_string(project.root.join("Cargo.lock"))
        .map_err(|error| format!("could not read Cargo.lock: {error}"))?;
    let manifest = folder.join("Cargo.toml");
    let own = std::fs::read_to_string(project.root.join("Cargo.toml"))
        .map_err(|error| format!("could not read Cargo.toml: {error}"))?;
    // And with the same profiles.
    let profiles = own.find("\n[profile.").map_or("", |at| &own[at..]);
    for (file, text) in [
        ("Cargo.toml", MANIFEST.replace("ROOT", &project.root.to_string_lossy()) + profiles),
        // The same versions, which are compiled already.
        ("Cargo.lock", lock),
        ("src/main.rs", program(&chapters)),
    ] {
        let path = folder.join(file);
        // What has not changed is not compiled again.
        if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        write(&path, &text)?;
    }
    Ok(manifest)
}

fn read(path: &Path) -> Result<Chapter> {
    let failed = |what: String| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let cells = json["cells"].as_array().ok_or_else(|| failed("it has no cells".into()))?;
    let code = cells.iter().filter(|cell| cell["cell_type"] == "code").map(source).collect();
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, code))
}

/// A cell's text, which a notebook has in one piece or in lines.
fn source(cell: &Value) -> String {
    match &cell["source"] {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

/// A program that runs the chapters one after another, each in a function of its own, and ends at the first error.
fn program(chapters: &[Chapter]) -> String {
    let mut text = String::from(
        "//! Made of the notebooks by `cargo xtask gpu-check`.\n\
         #![allow(unused)]\n\n\
         type Done = Result<(), Box<dyn std::error::Error>>;\n",
    );
    for (name, cells) in chapters {
        let _ = write!(text, "\nfn chapter_{name}() -> Done {{\n");
        for cell in cells {
            let _ = writeln!(text, "{}", statements(cell));
        }
        text.push_str("Ok(())\n}\n");
    }
    text.push_str("\nfn main() -> Done {\n");
    for (name, _) in chapters {
        let _ = write!(text, "println!(\"== {name}\");\nchapter_{name}()?;\n");
    }
    text.push_str(
        "let picked = diffuscope::device::pick(None)?;\n\
         println!(\"device: {}\", diffuscope::device::name(picked.device));\nOk(())\n}\n",
    );
    text
}

/// A cell as statements: without the kernel's own commands, and with what it ends in shown as the kernel shows it.
fn statements(cell: &str) -> String {
    let lines = cell.lines().filter(|line| !line.trim_start().starts_with(':'));
    let code = lines.collect::<Vec<_>>().join("\n");
    let code = code.trim_end();
    match code.chars().next_back() {
        None | Some(';' | '}') => code.to_owned(),
        _ => format!("{code}.evcxr_display();"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_become_statements_of_one_function_a_chapter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("00_first.ipynb");
        let notebook = r##"{"cells": [
            {"cell_type": "code", "source": [":dep diffuscope = { path = \"..\" }\n", "use a::b;\n"]},
            {"cell_type": "markdown", "source": ["# A title"]},
            {"cell_type": "code", "source": "let x = b(1)?;\nplot(&x)?\n    .title(\"x\")"},
            {"cell_type": "code", "source": ["for _ in x {\n", "}"]}
        ]}"##;
        std::fs::write(&path, notebook).unwrap();
        let text = program(&[read(&path).unwrap()]);
        let function = "fn chapter_00_first() -> Done {\nuse a::b;\nlet x = b(1)?;\nplot(&x)?\n    .title(\"x\")\
                        .evcxr_display();\nfor _ in x {\n}\nOk(())\n}\n";
        assert!(text.contains(function), "{text}");
        assert!(text.contains("println!(\"== 00_first\");\nchapter_00_first()?;"), "{text}");
        std::fs::write(&path, "{}").unwrap();
        assert!(read(&path).unwrap_err().ends_with("it has no cells"));
    }
}
