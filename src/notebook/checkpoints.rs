//! Models and checkpoints as tables of their networks.

use super::look::{Look, Looks, shows};
use super::table::Table;
use crate::Result;
use crate::checkpoint::{Checkpoint, Lora, NetworkReport, Report, examine};
use crate::pipeline::StableDiffusion;

shows!(Report, NetworkReport, Checkpoint, Lora, StableDiffusion);

impl Looks for Report {
    fn look(&self) -> Result<Look> {
        let said = match (&self.prediction, self.prediction_known) {
            (Some(prediction), true) => format!(", predicts {prediction}"),
            (Some(prediction), false) => format!(", predicts {prediction} (assumed)"),
            (None, _) => String::new(),
        };
        let caption = format!("{}: {}{said}", self.path.display(), self.family);
        let mut notes: Vec<String> = self.networks.iter().flat_map(problems).collect();
        if let Some(first) = self.unknown.first() {
            notes.push(format!("{} tensors of no known network: {first} ...", self.unknown.len()));
        }
        Ok(Look::table(&networks(caption, &self.networks)).notes(&notes))
    }
}

impl Looks for NetworkReport {
    fn look(&self) -> Result<Look> {
        let one = std::slice::from_ref(self);
        Ok(Look::table(&networks(self.name.clone(), one)).notes(&problems(self)))
    }
}

impl Looks for Checkpoint {
    fn look(&self) -> Result<Look> {
        Ok(examine(self).look()?.notes(&self.notes()))
    }
}

impl Looks for Lora {
    fn look(&self) -> Result<Look> {
        let rows = self.networks().into_iter();
        let rows = rows.map(|(name, layers)| (name.to_owned(), format!("{layers} layers")));
        let caption = format!("{}: low-rank changes", self.path().display());
        Ok(Look::table(&Table::settings(caption, rows.collect())))
    }
}

impl Looks for StableDiffusion {
    fn look(&self) -> Result<Look> {
        let parts = [
            ("text_encoder", self.text_encoder.config().hidden_size.to_string() + " wide"),
            ("text_encoder_2", String::new()),
            ("unet", format!("{} channels at first", self.unet.config().block_out_channels[0])),
            ("vae", format!("{} latent channels", self.vae.config().latent_channels)),
        ];
        let rows = parts.into_iter().filter_map(|(name, about)| {
            let tensors = self.tensors(name);
            let parameters: usize = tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
            let kind = tensors.first().map(|(_, tensor)| format!("{:?}", tensor.kind()))?;
            Some(vec![name.to_owned(), millions(parameters as u64), kind, about])
        });
        let table = Table::new(format!("{self:?}"), ["network", "parameters", "dtype", ""]);
        let notes = [self.notes.clone(), self.scheduler.notes(None)].concat();
        Ok(Look::table(&table.rows(rows)).notes(&notes))
    }
}

fn networks(caption: String, networks: &[NetworkReport]) -> Table {
    let head = ["network", "parameters", "tensors", "dtype in the files", "memory", ""];
    let rows = networks.iter().map(|network| {
        let dtypes: Vec<&str> = network.dtypes.keys().map(String::as_str).collect();
        let memory =
            |(dtype, bytes): (&String, &u64)| format!("{:.2} GB in {dtype}", *bytes as f64 / 1e9);
        vec![
            network.name.clone(),
            millions(network.parameters),
            network.tensors.to_string(),
            dtypes.join(" and "),
            network.memory.iter().map(memory).collect::<Vec<_>>().join(", "),
            if network.is_whole() { "whole" } else { "does not fit" }.to_owned(),
        ]
    });
    Table::new(caption, head).rows(rows)
}

/// What does not fit, a sentence a kind.
fn problems(network: &NetworkReport) -> Vec<String> {
    let name = &network.name;
    let refused = network.refused.iter().map(|why| format!("{name} cannot be built: {why}"));
    let kinds = [
        ("missing", &network.missing),
        ("of another shape", &network.misshaped),
        ("not of this network", &network.unused),
    ];
    let kinds = kinds.into_iter().filter_map(|(what, list)| {
        let first = list.first()?;
        Some(format!("{name}: {} tensors are {what}: {first} ...", list.len()))
    });
    refused.chain(kinds).collect()
}

fn millions(count: u64) -> String {
    format!("{:.1} M", count as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tiny_folder;

    #[test]
    fn a_checkpoint_is_a_table_of_its_networks() -> Result<()> {
        let checkpoint = Checkpoint::open(tiny_folder())?;
        let mut report = examine(&checkpoint);
        for block in [checkpoint.look()?.block(), report.look()?.block()] {
            assert!(block.starts_with("EVCXR_BEGIN_CONTENT text/html\n<p>"), "{block}");
            let lines = block.split("text/plain\n").nth(1).unwrap().lines();
            assert_eq!(lines.filter(|line| line.ends_with("  whole")).count(), 3, "{block}");
        }
        report.networks[0].missing = vec!["conv_in.weight".to_owned()];
        report.unknown = vec!["x".to_owned()];
        let block = report.look()?.block();
        assert!(block.contains("1 tensors are missing: conv_in.weight ..."), "{block}");
        assert!(block.contains("1 tensors of no known network: x ..."), "{block}");
        Ok(())
    }

    #[test]
    fn a_model_is_a_table_of_its_networks_and_says_what_was_assumed() -> Result<()> {
        let mut sd = StableDiffusion::tiny()?;
        sd.notes = vec!["epsilon was assumed".to_owned()];
        let block = sd.look()?.block();
        for part in ["64×64 pixels", "unet ", "vae ", "text_encoder ", "Note: epsilon was assumed"]
        {
            assert!(block.contains(part), "{part}: {block}");
        }
        assert!(!block.contains("text_encoder_2"));
        Ok(())
    }
}
