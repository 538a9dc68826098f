//! A judge's features and answers for pictures, and what is computed from the features.

use diffuscope::Result;
use diffuscope::eval::distances::{diversity, frechet_distance};
use diffuscope::eval::questions::answers;
use diffuscope::eval::validity::certainty;
use diffuscope::models::judge::Judge;
use diffuscope::noise::with_seed;
use tch::{Device, Kind, Tensor, no_grad};

/// Pictures of each prompt whose distances are the diversity.
pub const PER_PROMPT: usize = 4;

/// What a judge computes from pictures.
pub struct Judged {
    /// [N, d]
    pub features: Tensor,
    /// [N, 7]
    pub answers: Tensor,
    /// `[N]`, how sure the judge is
    pub certainty: Tensor,
}

/// Judges pictures, which are reduced to the judge's size.
pub fn judge_pictures(judge: &Judge, images: &Tensor) -> Result<Judged> {
    let (mut features, mut all_answers, mut sure) = (Vec::new(), Vec::new(), Vec::new());
    let factor = images.size()[2] / judge.config().sample_size;
    for some in images.split(256, 0) {
        let sides = [factor, factor];
        let some = some.avg_pool2d(sides, sides, [0, 0], false, true, None::<i64>);
        let output = no_grad(|| judge.forward(&some))?;
        all_answers.push(answers(&output));
        sure.push(certainty(&output));
        features.push(output.features.to_device(Device::Cpu));
    }
    Ok(Judged {
        features: Tensor::cat(&features, 0),
        answers: Tensor::cat(&all_answers, 0),
        certainty: Tensor::cat(&sure, 0),
    })
}

/// The diversity of pictures, of which [`PER_PROMPT`] each belong to one prompt.
pub fn picture_diversity(judge: &Judge, images: &Tensor) -> Result<f64> {
    let features = judge_pictures(judge, images)?.features;
    diversity(&features.view([-1, PER_PROMPT as i64, features.size()[1]]))
}

/// The Fréchet distance of features, divided by the total variance of those of true scenes: a judge's features
/// have no unit.
pub fn relative_frechet(features: &Tensor, truth: &Tensor) -> Result<f64> {
    let variance = truth.to_kind(Kind::Double).var_dim([0i64].as_slice(), true, false);
    Ok(frechet_distance(features, truth)? / variance.sum(Kind::Double).double_value(&[]))
}

/// The standard deviation of [`relative_frechet`] over ten resamplings of the features.
pub fn frechet_deviation(features: &Tensor, truth: &Tensor) -> Result<f64> {
    let n = features.size()[0];
    let mut all = Vec::new();
    for k in 0..10 {
        let index = with_seed(k, || Tensor::randint(n, [n], (Kind::Int64, Device::Cpu)));
        all.push(relative_frechet(&features.index_select(0, &index), truth)?);
    }
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (all.len() - 1) as f64;
    Ok(variance.sqrt())
}
