//! The judge's training: scenes in, the answers about them out.

use std::path::Path;

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::export::write_component;
use super::initial_weights::load_initial_weights;
use super::optimizer::Optimizer;
use super::pictures::{check_pictures, near, rows, to_range};
use super::run::{TrainProgress, run};
use super::settings::TrainSettings;
use super::sheet::write_sheet;
use super::task::{LossParts, Trainable, TrainingTask};
use super::trained::Trained;
use crate::device::in_f64_on_cpu;
use crate::eval::questions::{NO_ANSWER, Question, best_answers, labels};
use crate::models::judge::{Judge, JudgeConfig, JudgeOutput};
use crate::models::params::Params;
use crate::noise::with_seed;
use crate::scenes::Truth;
use crate::{Error, Result};

/// The share of scenes for which each question has an answer, by their [`labels`]. The loss of a question is
/// divided by it, so that questions that only pairs answer count as much as the others.
fn answered_shares(labels: &Tensor) -> Result<Vec<f64>> {
    let known = in_f64_on_cpu(&labels.ne(NO_ANSWER))?;
    Ok(Vec::try_from(known.mean_dim([0i64].as_slice(), false, Kind::Double))?)
}

/// The mean of the questions' cross-entropies, each over the scenes for which the question has an answer; `shares`
/// are those of [`answered_shares`].
fn judge_loss(output: &JudgeOutput, labels: &Tensor, shares: &[f64]) -> Tensor {
    let none = None::<&Tensor>;
    let one = |((logits, truth), share): ((&Tensor, Tensor), &f64)| {
        let sum = logits.cross_entropy_loss(&truth, none, Reduction::Sum, NO_ANSWER, 0.);
        sum / (share.max(1e-3) * truth.size()[0] as f64)
    };
    let all = output.logits.iter().zip(labels.unbind(1)).zip(shares);
    Tensor::stack(&all.map(one).collect::<Vec<_>>(), 0).mean(Kind::Float)
}

/// Rotates the colours [B, 3, H, W] around the grey axis by `angle` [B, 1, 1, 1] in radians, and clamps them to
/// [-1, 1].
///
/// ```text
/// x = g + cos a (x - g) + sin a / sqrt(3) (1, 1, 1) cross x,   g the mean of x, for each channel
/// ```
/// Rodrigues 1840.
fn rotate_hues(image: &Tensor, angle: &Tensor) -> Tensor {
    let grey = image.mean_dim([1i64].as_slice(), true, Kind::Float);
    let channel = |i: i64| image.narrow(1, i % 3, 1);
    let crossed: Vec<Tensor> = (0..3).map(|i| channel(i + 2) - channel(i + 1)).collect();
    let crossed = Tensor::cat(&crossed, 1) / 3f64.sqrt();
    let turned = (image - &grey) * angle.cos() + crossed * angle.sin();
    (grey + turned).clamp(-1., 1.)
}

struct JudgeTask<'a> {
    batch: i64,
    pictures: &'a Tensor,
    labels: Tensor,
}

struct TrainableJudge {
    judge: Judge,
    shares: Vec<f64>,
}

impl Trainable for TrainableJudge {
    /// `batch`: pictures in [-1, 1], and their labels.
    fn loss(&self, batch: &[Tensor]) -> Result<(Tensor, LossParts)> {
        let output = self.judge.forward(&batch[0])?;
        let labels = &batch[1].to_device(output.features.device());
        let right = best_answers(&output).eq_tensor(labels).logical_or(&labels.eq(NO_ANSWER));
        let all = right.all_dim(1, false).to_kind(Kind::Float).mean(Kind::Float);
        let loss = judge_loss(&output, labels, &self.shares);
        Ok((loss, vec![("all_right", all)]))
    }
}

impl TrainingTask for JudgeTask<'_> {
    type Network = TrainableJudge;

    fn batch(&self, seed: i64) -> Result<Vec<Tensor>> {
        let size = self.pictures.size();
        let (float, shape) = ((Kind::Float, Device::Cpu), [self.batch, size[1], size[2], size[3]]);
        let (index, noise, strength, blur, turned, angle) = with_seed(seed, || {
            let index = Tensor::randint(size[0], [self.batch], (Kind::Int64, Device::Cpu));
            let each = || Tensor::rand([self.batch, 1, 1, 1], float);
            (index, Tensor::randn(shape, float), each(), each(), each().lt(0.5), each())
        });
        let [pictures, labels] = [self.pictures, &self.labels].map(|data| rows(data, &index));
        // A little noise and up to half the sharpness lost, so that the judge does not rely on single pixels,
        // which a generative model does not reproduce.
        let image = to_range(&pictures);
        let here = |x: &Tensor| x.to_device(image.device());
        let [noise, strength, blur, angle] = [noise, strength, blur, angle].map(|x| here(&x));
        let soft = image
            .avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>)
            .upsample_bilinear2d(&size[2..], false, None, None);
        let image = &image + (soft - &image) * blur + noise * strength * 0.1;
        // Half of the pictures get other hues and no questions about colours, so that the judge recognises objects
        // by their shapes, even in colours that no training scene has.
        let image = rotate_hues(&image, &(angle * std::f64::consts::TAU))
            .where_self(&here(&turned), &image);
        let asked = [Question::FirstColour, Question::SecondColour, Question::Background];
        let colours: Vec<bool> = Question::ALL.iter().map(|q| asked.contains(q)).collect();
        let hidden = turned.view([-1, 1]).logical_and(&Tensor::from_slice(&colours));
        Ok(vec![image, labels.masked_fill(&hidden, NO_ANSWER)])
    }

    /// The pictures with the least certain answers.
    fn sheet(&self, network: &TrainableJudge, path: &Path) -> Result<()> {
        let count = self.pictures.size()[0].min(256);
        let image = to_range(&self.pictures.narrow(0, 0, count));
        let output = no_grad(|| network.judge.forward(&image))?;
        let sure: Vec<Tensor> = output
            .logits
            .iter()
            .map(|l| l.softmax(-1, Kind::Float).amax([-1i64].as_slice(), false).log())
            .collect();
        let sure = Tensor::stack(&sure, 0).sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
        let shown = count.min(16);
        let (_, order) = sure.to_device(Device::Cpu).topk(shown, 0, false, true);
        write_sheet(path, &rows(&image, &order).to_device(Device::Cpu), shown.min(8))
    }

    fn export(&self, network: &TrainableJudge, optimizer: &Optimizer, folder: &Path) -> Result<()> {
        let (folder, config) = (folder.join("judge"), network.judge.config());
        write_component(&folder, "Judge", config, optimizer.average(), "")
    }
}

/// Trains a judge on u8 pictures [N, 3, H, W] and their `truths`, and writes it to `settings.out/model/judge/`.
///
/// # Errors
/// A number of truths that is not that of the pictures; whatever [`run`] refuses.
pub fn train_judge(
    pictures: &Tensor,
    truths: &[Truth],
    config: &JudgeConfig,
    settings: &TrainSettings,
    progress: impl FnMut(&TrainProgress),
) -> Result<Trained> {
    check_pictures(pictures)?;
    if pictures.size()[0] != truths.len() as i64 {
        let expected = format!("{}, one per picture", pictures.size()[0]);
        return Err(Error::argument("truths", expected, truths.len()));
    }
    let pictures = &near(pictures, settings.device)?;
    let labels = labels(truths);
    let shares = answered_shares(&labels)?;
    let build = || {
        let params = Params::fresh(settings.kind, settings.device);
        let judge = with_seed(settings.seed, || Judge::new(&params, config))?;
        if let Some(folder) = &settings.from {
            load_initial_weights(
                &params,
                &folder.join("judge"),
                |name| Some(name.to_owned()),
                None,
            )?;
        }
        Ok((params, TrainableJudge { judge, shares: shares.clone() }))
    };
    run(build, settings, &JudgeTask { batch: settings.batch, pictures, labels }, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_a_turn_moves_red_to_green_and_leaves_grey() {
        let colours = Tensor::from_slice(&[1f32, -1., -1., 0.3, 0.3, 0.3]).view([2, 3, 1, 1]);
        let third =
            Tensor::full([2, 1, 1, 1], std::f64::consts::TAU / 3., (Kind::Float, Device::Cpu));
        let turned = Vec::<f32>::try_from(rotate_hues(&colours, &third).reshape([-1])).unwrap();
        for (got, expected) in turned.iter().zip([-1f32, 1., -1., 0.3, 0.3, 0.3]) {
            assert!((got - expected).abs() < 1e-5, "{turned:?}");
        }
    }
}
