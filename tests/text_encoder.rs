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
