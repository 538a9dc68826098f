//! What happened at every step, as data: one safetensors file.

use std::fmt;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::Generation;
use crate::prediction::Prediction;
use crate::rates::Rates;
use crate::sampler::SamplingStep;
use crate::tensor_file::{TensorFile, write_tensors};
use crate::{Error, Result};

/// A generation, step by step. N steps, B pictures. It shows its steps when it ends a notebook cell.
pub struct Trace {
    /// What the network's outputs predict.
    pub prediction: Prediction,
    /// `[N]` f32: the timesteps that the network was given.
    pub timesteps: Tensor,
    /// `[N]` f64: how much of the picture each `x_t` has, see [`crate::sampler::Position`].
    pub signal_rates: Tensor,
    /// `[N]` f64: how much noise each `x_t` has.
    pub noise_rates: Tensor,
    /// [N, B, 4, h, w]: the sample that each step started from.
    pub x_t: Tensor,
    /// [N, B, 4, h, w]: the network's raw output without the prompt.
    pub output_uncond: Tensor,
    /// [N, B, 4, h, w]: the network's raw output with the prompt.
    pub output_cond: Tensor,
    /// [N, B, 4, h, w]: the guided output.
    pub output: Tensor,
    /// [N, B, 4, h, w]: the noise that the guided output says is in `x_t`.
    pub noise_pred: Tensor,
    /// [N, B, 4, h, w]: the picture that the guided output says is in `x_t`.
    pub x_0: Tensor,
    /// [N, 13] f64: the step's coefficients of x_0, noise_pred, x_t and fresh noise, and those of x_0, noise_pred and x_t
    /// of three earlier evaluations, see [`crate::sampler::Coefficients`].
    pub coefficients: Tensor,
    /// [B, 4, h, w]: the final latents.
    pub latents: Tensor,
    /// [B, 3, H, W] in [-1, 1]: the pictures.
    pub image: Tensor,
    /// What a person should know, see [`StableDiffusion::warnings`](super::StableDiffusion::warnings).
    pub notes: Vec<String>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (steps, latents, image) = (self.len(), self.latents.size(), self.image.size());
        write!(f, "Trace {{ {steps} steps, latents: {latents:?}, image: {image:?} }}")
    }
}

/// What a trace's prediction is called among the texts of its file.
const PREDICTION: &str = "prediction";
/// The same for its notes, one a line.
const NOTES: &str = "notes";

impl Trace {
    /// Gathers the records of a sampling and its result.
    ///
    /// # Errors
    /// Records of different shapes.
    pub fn new(steps: &[SamplingStep], generation: Generation) -> Result<Self> {
        let size = generation.latents.size();
        let gather = |of: fn(&SamplingStep) -> &Tensor| -> Result<Tensor> {
            let all: Vec<Tensor> = steps.iter().map(|s| of(s).to_device(Device::Cpu)).collect();
            if all.is_empty() {
                let none = [&[0], &size[..]].concat();
                return Ok(Tensor::f_zeros(&none, (Kind::Float, Device::Cpu))?);
            }
            Ok(Tensor::f_stack(&all, 0)?)
        };
        let numbers = |of: fn(&SamplingStep) -> f64| {
            Tensor::from_slice(&steps.iter().map(of).collect::<Vec<f64>>())
        };
        let coefficients: Vec<f64> = steps
            .iter()
            .map(|s| s.coefficients)
            .flat_map(|c| {
                let earlier = c.earlier.map(|of| [of.of_x_0, of.of_noise_pred, of.of_x_t]).concat();
                [vec![c.of_x_0, c.of_noise_pred, c.of_x_t, c.of_noise], earlier].concat()
            })
            .collect();
        let Generation { latents, image, notes, .. } = generation;
        Ok(Self {
            // Without a step there is no output, and nothing to predict.
            prediction: steps.first().map_or(Prediction::Epsilon, |s| s.prediction),
            timesteps: numbers(|s| s.position.t).to_kind(Kind::Float),
            signal_rates: numbers(|s| s.position.signal_rate),
            noise_rates: numbers(|s| s.position.noise_rate),
            x_t: gather(|s| &s.x_t)?,
            output_uncond: gather(|s| &s.output_uncond)?,
            output_cond: gather(|s| &s.output_cond)?,
            output: gather(|s| &s.output)?,
            noise_pred: gather(|s| &s.noise_pred)?,
            x_0: gather(|s| &s.x_0)?,
            coefficients: Tensor::from_slice(&coefficients).view([-1, 13]),
            latents,
            image,
            notes,
        })
    }

    /// The number of steps.
    pub fn len(&self) -> usize {
        self.timesteps.numel()
    }

    /// Whether nothing happened: image to image with strength 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// [N, B, 4, h, w]: the noise that the network predicts without the prompt.
    ///
    /// # Errors
    /// Tensors that do not fit each other.
    pub fn noise_uncond(&self) -> Result<Tensor> {
        self.prediction.noise(&self.rates()?, &self.x_t, &self.output_uncond)
    }

    /// [N, B, 4, h, w]: the noise that the network predicts with the prompt.
    ///
    /// # Errors
    /// Tensors that do not fit each other.
    pub fn noise_cond(&self) -> Result<Tensor> {
        self.prediction.noise(&self.rates()?, &self.x_t, &self.output_cond)
    }

    /// The rates of every step.
    fn rates(&self) -> Result<Rates> {
        let list = |x: &Tensor| -> Result<Vec<f64>> { Ok(Vec::try_from(x)?) };
        let (signal, noise) = (list(&self.signal_rates)?, list(&self.noise_rates)?);
        if signal.len() != noise.len() {
            let expected = format!("[{}]", signal.len());
            return Err(Error::shape("noise_rates", expected, &self.noise_rates.size()));
        }
        Ok(Rates::per_sample(signal.into_iter().zip(noise).collect()))
    }

    /// Those with one entry per step first.
    fn tensors(&self) -> [(&'static str, &Tensor); 12] {
        [
            ("timesteps", &self.timesteps),
            ("signal_rates", &self.signal_rates),
            ("noise_rates", &self.noise_rates),
            ("x_t", &self.x_t),
            ("output_uncond", &self.output_uncond),
            ("output_cond", &self.output_cond),
            ("output", &self.output),
            ("noise_pred", &self.noise_pred),
            ("x_0", &self.x_0),
            ("coefficients", &self.coefficients),
            ("latents", &self.latents),
            ("image", &self.image),
        ]
    }

    /// Writes the trace; `texts` are kept with it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, texts: &[(String, String)]) -> Result<()> {
        let named = self.tensors().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        let prediction = (PREDICTION.to_owned(), self.prediction.name().to_owned());
        let mut own = vec![prediction];
        if !self.notes.is_empty() {
            let one_a_line = self.notes.iter().map(|note| note.replace('\n', " "));
            own.push((NOTES.to_owned(), one_a_line.collect::<Vec<_>>().join("\n")));
        }
        write_tensors(path, &named, &[texts, &own].concat())
    }

    /// Reads a trace back.
    ///
    /// # Errors
    /// A file that cannot be read or is not a trace.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let no_trace = |why: &str| Error::weights(file.path(), format!("is not a trace: {why}"));
        let said = file.metadata().get(PREDICTION);
        let prediction = said.and_then(|name| name.parse().ok());
        let trace = Self {
            prediction: prediction
                .ok_or_else(|| no_trace("it does not say what the outputs predict"))?,
            timesteps: file.tensor("timesteps")?,
            signal_rates: file.tensor("signal_rates")?,
            noise_rates: file.tensor("noise_rates")?,
            x_t: file.tensor("x_t")?,
            output_uncond: file.tensor("output_uncond")?,
            output_cond: file.tensor("output_cond")?,
            output: file.tensor("output")?,
            noise_pred: file.tensor("noise_pred")?,
            x_0: file.tensor("x_0")?,
            coefficients: file.tensor("coefficients")?,
            latents: file.tensor("latents")?,
            image: file.tensor("image")?,
            notes: file
                .metadata()
                .get(NOTES)
                .map(|notes| notes.lines().map(str::to_owned).collect())
                .unwrap_or_default(),
        };
        let n = trace.len() as i64;
        let per_step = trace.tensors();
        let whole = per_step[..10].iter().all(|(_, t)| t.size().first() == Some(&n));
        let lists = per_step[..3].iter().all(|(_, t)| t.dim() == 1);
        match whole && lists {
            true => Ok(trace),
            false => Err(no_trace("its tensors differ in length")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use crate::sampler::{Coefficients, Position};

    fn step(i: i64, prediction: Prediction) -> Result<SamplingStep> {
        let normal = |seed| standard_normal(&[1, 4, 2, 2], 10 * i + seed);
        let position = Position { t: 100. * i as f64, signal_rate: 0.6, noise_rate: 0.8 };
        Ok(SamplingStep {
            i: i as usize,
            position,
            coefficients: Coefficients { of_x_0: 0.5, ..Coefficients::default() },
            x_t: normal(1)?,
            output_uncond: normal(2)?,
            output_cond: normal(3)?,
            output: normal(4)?,
            prediction,
            noise_pred: normal(5)?,
            x_0: normal(6)?,
            prev_sample: normal(7)?,
        })
    }

    fn generation(latents: Tensor, image: Tensor) -> Generation {
        let notes = vec!["first".to_owned(), "second".to_owned()];
        Generation { latents, image, finished: true, captions: Vec::new(), notes }
    }

    #[test]
    fn the_noise_of_every_model_is_noise_also_after_a_file() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.safetensors");
        for prediction in [Prediction::Epsilon, Prediction::V, Prediction::Sample] {
            let steps = [step(3, prediction)?, step(1, prediction)?];
            let (latents, image) =
                (standard_normal(&[1, 4, 2, 2], 0)?, standard_normal(&[1, 3, 4, 4], 0)?);
            let trace = Trace::new(&steps, generation(latents, image))?;
            trace.save(&path, &[("prompt".into(), "a cat".into())])?;
            let loaded = Trace::load(&path)?;
            assert_eq!((loaded.len(), loaded.prediction), (2, prediction));
            assert_eq!(loaded.notes, ["first", "second"]);
            for ((_, a), (_, b)) in trace.tensors().into_iter().zip(loaded.tensors()) {
                assert!(a.equal(b));
            }
            let (uncond, cond) = (loaded.noise_uncond()?, loaded.noise_cond()?);
            for (i, step) in (0..).zip(&steps) {
                let apart = |a: Tensor, b: Tensor| (a - b).abs().max().double_value(&[]);
                assert!(apart(uncond.get(i), step.noise_uncond()?) < 1e-6);
                assert!(apart(cond.get(i), step.noise_cond()?) < 1e-6);
            }
            let raw = uncond.equal(&loaded.output_uncond);
            assert_eq!(raw, prediction == Prediction::Epsilon);
            // v = signal_rate eps - noise_rate x_0 of a sample of variance 1.
            if prediction == Prediction::V {
                let noise: Tensor = 0.8 * &steps[0].x_t + 0.6 * &steps[0].output_cond;
                assert!((cond.get(0) - noise).abs().max().double_value(&[]) < 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn a_file_that_is_no_trace_is_refused() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.safetensors");
        let steps = [step(3, Prediction::V)?, step(1, Prediction::V)?];
        let latents = standard_normal(&[1, 4, 2, 2], 0)?;
        let image = standard_normal(&[1, 3, 4, 4], 0)?;
        let mut trace = Trace::new(&steps, generation(latents, image))?;
        trace.noise_rates = trace.noise_rates.narrow(0, 0, 1);
        assert!(trace.noise_cond().is_err());
        trace.save(&path, &[])?;
        let said = Trace::load(&path).unwrap_err().to_string();
        assert!(said.contains("differ in length"), "{said}");
        let tensors = [("timesteps".to_owned(), Tensor::from_slice(&[1f32]))];
        write_tensors(&path, &tensors, &[])?;
        let said = Trace::load(&path).unwrap_err().to_string();
        assert!(said.contains("what the outputs predict"), "{said}");
        Ok(())
    }
}
