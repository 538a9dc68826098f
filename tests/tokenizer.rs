//! Ids of many prompts against transformers' CLIPTokenizer.

mod golden;

use std::collections::BTreeMap;

use diffuscope::models::clip::Tokenizer;
use diffuscope::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    pad_end: Vec<i64>,
    pad_zero: Vec<i64>,
}

#[test]
fn ids_of_transformers() -> Result<()> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tokenizer");
    let text = std::fs::read_to_string(golden::path("tokenizer.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    let end = Tokenizer::open(data)?;

    // SD 2.x pads with "!", and says so in a file of its own.
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(format!("{data}/{name}"), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("special_tokens_map.json"), r#"{"pad_token": "!"}"#).unwrap();
    let zero = Tokenizer::open(folder.path())?;

    let mut wrong = Vec::new();
    for Case { prompt, pad_end, pad_zero } in &cases {
        for (tokenizer, expected) in [(&end, pad_end), (&zero, pad_zero)] {
            let got = tokenizer.encode(prompt)?;
            assert_eq!(got.ids.len(), 77);
            if &got.ids != expected {
                let at = (0..77).find(|&i| got.ids[i] != expected[i]).unwrap();
                wrong.push(format!(
                    "{prompt:?} from token {at}: {:?} and not {:?}",
                    &got.ids[at..at + 4.min(77 - at)],
                    &expected[at..at + 4.min(77 - at)]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 2 * cases.len(), wrong.join("\n"));
    println!("{} prompts have the ids of transformers", cases.len());
    assert!(matches!(Tokenizer::open("/nowhere"), Err(Error::Tokenizer(_))));
    Ok(())
}

#[test]
fn texts_are_shown_as_they_were_written() -> Result<()> {
    let clip = Tokenizer::clip("<|endoftext|>")?;
    let words = clip.words("a 味 CAFE\u{301}, naïve \u{1f600}\u{1f600}")?;
    let said: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
    assert_eq!(said, ["a", "味", "CAFE\u{301}", ",", "naïve", "\u{1f600}\u{1f600}"]);
    // Its bytes are ids of their own, and are read as what they are.
    let tokens: Vec<String> = words[1].1.iter().map(|&id| clip.token(id)).collect();
    assert_eq!(tokens.concat(), "<e5><91><b3></w>");
    assert_eq!(clip.encode("Café")?.tokens[1..3].concat(), "café</w><|endoftext|>");

    let cats = "Cat ".repeat(74);
    for rest in ["味 und Größe", "don't  stop,\nE\u{301}tude"] {
        let encoding = clip.encode(&format!("{cats}{rest}  "))?;
        let (text, cut) = (encoding.text.as_str(), encoding.cut.clone().unwrap());
        assert!(
            rest.ends_with(&cut) && (text.to_owned() + &cut).trim_end().ends_with(rest),
            "{cut}"
        );
        let shown = format!("{encoding:?}");
        assert!(shown.contains("Cat Cat") && !shown.contains('Ã'), "{shown}");
    }
    assert_eq!(clip.encode(&format!("{cats}味 und Größe"))?.cut.unwrap(), "味 und Größe");
    assert_eq!(clip.encode(&cats)?.cut, None);
    Ok(())
}

#[derive(Deserialize)]
struct FolderCase {
    name: String,
    files: BTreeMap<String, Value>,
    prompts: Vec<String>,
    ids: Vec<Vec<i64>>,
}

/// Tokens that a folder adds to its vocabulary, in every file that can name them and in several at once.
#[test]
fn added_tokens_of_transformers() -> Result<()> {
    let text = std::fs::read_to_string(golden::path("added_tokens.json")).unwrap();
    let cases: Vec<FolderCase> = serde_json::from_str(&text).unwrap();
    let tiny = golden::path("pipeline/sd1/tokenizer");
    let vocabulary = std::fs::read_to_string(tiny.join("vocab.json")).unwrap();
    let merges = std::fs::read_to_string(tiny.join("merges.txt")).unwrap();
    for FolderCase { name, mut files, prompts, ids } in cases {
        let folder = tempfile::tempdir().unwrap();
        if let Some(whole) = files.get_mut("tokenizer.json") {
            let vocab: Value = serde_json::from_str(&vocabulary).unwrap();
            let merges: Vec<&str> = merges.lines().skip(1).collect();
            whole["model"] = serde_json::json!({ "type": "BPE", "vocab": vocab, "merges": merges });
        }
        std::fs::write(folder.path().join("vocab.json"), &vocabulary).unwrap();
        std::fs::write(folder.path().join("merges.txt"), &merges).unwrap();
        for (file, content) in files {
            std::fs::write(folder.path().join(file), content.to_string()).unwrap();
        }
        let tokenizer = Tokenizer::open(folder.path())?;
        for (prompt, ids) in prompts.iter().zip(ids) {
            assert_eq!(tokenizer.encode(prompt)?.ids[..ids.len()], ids, "{name}: {prompt}");
        }
    }
    Ok(())
}
