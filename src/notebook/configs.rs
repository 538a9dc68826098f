//! Configurations and settings as short tables.

use serde::Serialize;
use serde_json::Value;

use super::look::{Look, Looks, shows};
use super::table::Table;
use crate::checkpoint::SchedulerConfig;
use crate::environment::Environment;
use crate::models::clip::TextConfig;
use crate::models::judge::JudgeConfig;
use crate::models::unet::UNetConfig;
use crate::models::vae::VaeConfig;
use crate::{Error, Result};

shows!(UNetConfig, VaeConfig, TextConfig, JudgeConfig, SchedulerConfig, Environment);

impl Looks for UNetConfig {
    fn look(&self) -> Result<Look> {
        fields("U-Net", self)
    }
}

impl Looks for VaeConfig {
    fn look(&self) -> Result<Look> {
        fields("VAE", self)
    }
}

impl Looks for TextConfig {
    fn look(&self) -> Result<Look> {
        fields("Text encoder", self)
    }
}

impl Looks for JudgeConfig {
    fn look(&self) -> Result<Look> {
        fields("Judge", self)
    }
}

impl Looks for SchedulerConfig {
    fn look(&self) -> Result<Look> {
        let sampler = self.sampler();
        let settings = self.settings(sampler)?;
        let timesteps = self.schedule()?.num_train_timesteps();
        let rows = [
            ("sampler", sampler.to_string()),
            ("predicts", settings.prediction.name().to_owned()),
            ("training timesteps", timesteps.to_string()),
            ("spacing", format!("{:?}, offset {}", settings.spacing, settings.steps_offset)),
            ("sigmas", format!("{:?}", settings.sigmas)),
            ("clip", format!("{:?}", settings.clip)),
        ];
        let rows = rows.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(Look::table(&Table::settings("What the checkpoint says about sampling", rows)))
    }
}

impl Looks for Environment {
    fn look(&self) -> Result<Look> {
        let text = self.to_string();
        let rows = text.lines().filter_map(|line| {
            let (name, value) = line.split_once("  ")?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        Ok(Look::table(&Table::settings("What this runs on", rows.collect())))
    }
}

/// The fields of a configuration under their names in its file; what is null or false says nothing.
fn fields(caption: &str, config: &impl Serialize) -> Result<Look> {
    let json = serde_json::to_value(config).map_err(|e| Error::argument("config", "JSON", e))?;
    let fields = json.as_object().into_iter().flatten();
    let silent = |value: &Value| value.is_null() || *value == Value::Bool(false);
    let rows = fields.filter(|(name, value)| !silent(value) && !name.starts_with('_'));
    let rows = rows.map(|(name, value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(values) => {
                let text = |v: &Value| v.as_str().map_or(v.to_string(), str::to_owned);
                values.iter().map(text).collect::<Vec<_>>().join(", ")
            }
            value => value.to_string(),
        };
        (name.clone(), value)
    });
    Ok(Look::table(&Table::settings(caption, rows.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::StableDiffusion;

    #[test]
    fn a_config_is_a_table_of_its_settings() -> Result<()> {
        let sd = StableDiffusion::tiny()?;
        for (look, expected) in [
            (sd.unet.config().look()?, "cross_attention_dim"),
            (sd.vae.config().look()?, "scaling_factor"),
            (sd.text_encoder.config().look()?, "hidden_size"),
            (sd.scheduler.look()?, "training timesteps  1000"),
            (crate::environment::environment()?.look()?, "libtorch"),
        ] {
            let block = look.block();
            assert!(block.starts_with("EVCXR_BEGIN_CONTENT text/html\n<p>"), "{block}");
            assert!(block.contains(expected) && block.lines().count() < 60, "{block}");
        }
        Ok(())
    }
}
