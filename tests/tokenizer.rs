//! Ids of many prompts against transformers' CLIPTokenizer.

mod golden;

use diffuscope::models::clip::Tokenizer;
use diffuscope::{Error, Result};
use serde::Deserialize;

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
