//! What trainings show when they end a notebook cell.

use super::{CaptionedLatents, LossCurve, TrainProgress, TrainSettings, Trained};
use crate::Result;
use crate::notebook::look::{Look, Looks, shows};
use crate::notebook::table::Table;
use crate::plot::latents;
use crate::short::Digits;

shows!(LossCurve, TrainProgress, Trained, TrainSettings, CaptionedLatents);

impl Looks for LossCurve {
    fn look(&self) -> Result<Look> {
        Ok(Look::picture(self.figure()?.png()?, format!("{self:?}")))
    }
}

impl Looks for Trained {
    fn look(&self) -> Result<Look> {
        let look = Look::picture(self.losses()?.figure()?.png()?, self.to_string());
        Ok(if self.finished() { look } else { look.notes(&[self.to_string()]) })
    }
}

impl Looks for TrainProgress {
    fn look(&self) -> Result<Look> {
        let caption = format!("Step {} of {}", self.step, self.steps);
        let [loss, rate] = [self.loss, self.samples_per_second].map(|x| Digits(x).to_string());
        let rows = vec![("loss".to_owned(), loss), ("pictures per second".to_owned(), rate)];
        Ok(Look::table(&Table::settings(caption, rows)))
    }
}

impl Looks for TrainSettings {
    fn look(&self) -> Result<Look> {
        let rows = [
            ("into", self.out.display().to_string()),
            ("steps", self.steps.to_string()),
            ("pictures a step", self.batch.to_string()),
            ("highest learning rate", Digits(self.learning_rate).to_string()),
            ("warm-up", format!("{} steps", self.warmup)),
            ("seed", self.seed.to_string()),
            ("replicas", self.workers.to_string()),
            ("computes in", format!("{:?} on {}", self.kind, crate::device::name(self.device))),
        ];
        let rows = rows.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(Look::table(&Table::settings("Training", rows)))
    }
}

impl Looks for CaptionedLatents {
    fn look(&self) -> Result<Look> {
        let count = self.latents.size()[0];
        let first = latents(&self.latents.get(0))?.title(format!("the first of {count} latents"));
        Ok(Look::picture(first.png()?, format!("{self:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::loss_log::LOSSES;

    #[test]
    fn a_training_shows_its_loss() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        assert!(LossCurve::open(folder.path()).is_err());
        let log = "step,loss,learning_rate,grad_norm\n1,0.5,1,1\n2,0.25,1,1\n3,0,1,1\n";
        std::fs::write(folder.path().join(LOSSES), log).unwrap();
        let curve = LossCurve::open(folder.path())?;
        assert_eq!(curve.losses, [(1, 0.5), (2, 0.25)]);
        let block = curve.look()?.block();
        assert!(block.starts_with("EVCXR_BEGIN_CONTENT image/png\n"));
        assert!(block.contains("LossCurve of 2 steps: 0.25 at step 2"));
        let trained = Trained { out: folder.path().to_owned(), step: 3, steps: 9 };
        let block = trained.look()?.block();
        assert!(block.contains("Note: stopped after 3 of 9 steps, into "), "{block}");
        let trained = Trained { steps: 3, ..trained };
        assert!(trained.look()?.block().starts_with("EVCXR_BEGIN_CONTENT image/png\n"));
        assert!(LossCurve { losses: Vec::new() }.look().is_err());
        let progress = TrainProgress { step: 3, steps: 9, loss: 0.123_456, samples_per_second: 7. };
        let block = progress.look()?.block();
        assert!(block.contains("Step 3 of 9\nloss                 0.1235\n"), "{block}");
        Ok(())
    }
}
