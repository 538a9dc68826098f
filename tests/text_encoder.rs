//! CLIP's text encoder against transformers: folders that `CLIPTextModel.save_pretrained` wrote.

mod golden;

use diffuscope::Result;
use diffuscope::models::clip::TextEncoder;
use golden::Worst;
use tch::{Device, Kind};

#[test]
fn contexts_of_transformers() -> Result<()> {
    let mut worst = Worst::within(1e-5);
    for (name, folder) in golden::folders("text_encoder") {
        let numbers = golden::numbers(&folder);
        let text_encoder = TextEncoder::open(&folder, Kind::Float, Device::Cpu)?;
        let context = text_encoder.encode(&numbers.tensor("ids")?)?;
        worst.compare(&name, &context, &numbers.tensor("context")?);
    }
    worst.finish("text encoders");
    Ok(())
}

#[test]
fn states_and_pooled_embeddings_of_transformers() -> Result<()> {
    let mut worst = Worst::within(1e-5);
    for (name, folder) in golden::folders("text_projection") {
        let numbers = golden::numbers(&folder);
        let text_encoder = TextEncoder::open(&folder, Kind::Float, Device::Cpu)?;
        let ids = numbers.tensor("ids")?;
        let out = text_encoder.forward(&ids)?;
        worst.compare(&name, &out.last_hidden_state, &numbers.tensor("context")?);
        let pooled = out.text_embeds.as_ref().expect("weights with a projection");
        worst.compare(&name, pooled, &numbers.tensor("text_embeds")?);
        for skip in 0..4 {
            let skipping = text_encoder.encode_skipping(&ids, skip)?;
            worst.compare(&name, &skipping, &numbers.tensor(&format!("skip_{skip}"))?);
            worst.compare(
                &name,
                out.state_before(skip)?,
                &numbers.tensor(&format!("state_{skip}"))?,
            );
        }
        let message = text_encoder.encode_skipping(&ids, 4).unwrap_err().to_string();
        assert!(message.starts_with("clip_skip: expected at most 3"), "{message}");
    }
    worst.finish("pooled embeddings");
    let end = TextEncoder::open(golden::path("text_projection/end"), Kind::Float, Device::Cpu)?;
    let without = tch::Tensor::from_slice(&[3i64, 4, 5]).unsqueeze(0);
    let message = end.forward(&without).unwrap_err().to_string();
    assert!(message.starts_with("token ids: expected the end token 30"), "{message}");
    Ok(())
}
