//! What happened at every step, as data: one safetensors file.

use std::fmt;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::{Generation, Making};
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
    /// The network's raw output without the prompt, [B, 4, h, w] each; `None` where a step did not need it: at a guidance
    /// scale of 1, outside the guidance interval, and for a model that runs once.
    pub output_uncond: Vec<Option<Tensor>>,
    /// The network's raw output with the prompt, [B, 4, h, w] each; `None` where a step did not need it, at a scale of 0.
    pub output_cond: Vec<Option<Tensor>>,
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
    /// What it was made with; `None` for one that was read from a file, or whose steps are not all there.
    pub making: Option<Making>,
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
/// The tensors that have one entry a step.
const PER_STEP: usize = 8;

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
        let here = |x: &Option<Tensor>| x.as_ref().map(|x| x.to_device(Device::Cpu));
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
            output_uncond: steps.iter().map(|s| here(&s.output_uncond)).collect(),
            output_cond: steps.iter().map(|s| here(&s.output_cond)).collect(),
            output: gather(|s| &s.output)?,
            noise_pred: gather(|s| &s.noise_pred)?,
            x_0: gather(|s| &s.x_0)?,
            coefficients: Tensor::from_slice(&coefficients).view([-1, 13]),
            latents,
            image,
            notes,
            making: None,
        })
    }

    /// The same trace, sharing its tensors.
    pub fn shallow_clone(&self) -> Self {
        let shared = |x: &Tensor| x.shallow_clone();
        let these = |all: &[Option<Tensor>]| all.iter().map(|x| x.as_ref().map(shared)).collect();
        Self {
            prediction: self.prediction,
            timesteps: shared(&self.timesteps),
            signal_rates: shared(&self.signal_rates),
            noise_rates: shared(&self.noise_rates),
            x_t: shared(&self.x_t),
            output_uncond: these(&self.output_uncond),
            output_cond: these(&self.output_cond),
            output: shared(&self.output),
            noise_pred: shared(&self.noise_pred),
            x_0: shared(&self.x_0),
            coefficients: shared(&self.coefficients),
            latents: shared(&self.latents),
            image: shared(&self.image),
            notes: self.notes.clone(),
            making: self.making.as_ref().map(Making::shallow_clone),
        }
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
    /// A step that did not ask for it; tensors that do not fit each other.
    pub fn noise_uncond(&self) -> Result<Tensor> {
        let hint = "a guidance scale of 1 needs no prediction without the prompt";
        self.noise("a prediction without the prompt", &self.output_uncond, hint)
    }

    /// [N, B, 4, h, w]: the noise that the network predicts with the prompt.
    ///
    /// # Errors
    /// A step that did not ask for it; tensors that do not fit each other.
    pub fn noise_cond(&self) -> Result<Tensor> {
        let hint = "a guidance scale of 0 needs no prediction with the prompt";
        self.noise("a prediction with the prompt", &self.output_cond, hint)
    }

    fn noise(&self, what: &str, outputs: &[Option<Tensor>], hint: &str) -> Result<Tensor> {
        if let Some(step) = outputs.iter().position(Option::is_none) {
            let got = format!("none at step {}", step + 1);
            return Err(Error::argument(what, "one at every step", got).hint(hint));
        }
        let outputs: Vec<&Tensor> = outputs.iter().flatten().collect();
        if outputs.is_empty() {
            return Ok(self.x_t.shallow_clone());
        }
        self.prediction.noise(&self.rates()?, &self.x_t, &Tensor::f_stack(&outputs, 0)?)
    }

    /// The same trace with only the steps that asked for both predictions.
    pub fn guided_steps(&self) -> Result<Self> {
        let both = |i: &usize| self.output_uncond[*i].is_some() && self.output_cond[*i].is_some();
        let steps: Vec<usize> = (0..self.len()).filter(both).collect();
        let index: Vec<i64> = steps.iter().map(|&i| i as i64).collect();
        let index = Tensor::from_slice(&index);
        let some = |x: &Tensor| Ok::<_, Error>(x.f_index_select(0, &index)?);
        let these = |all: &[Option<Tensor>]| {
            steps.iter().map(|&i| all[i].as_ref().map(Tensor::shallow_clone)).collect()
        };
        Ok(Self {
            timesteps: some(&self.timesteps)?,
            signal_rates: some(&self.signal_rates)?,
            noise_rates: some(&self.noise_rates)?,
            x_t: some(&self.x_t)?,
            output_uncond: these(&self.output_uncond),
            output_cond: these(&self.output_cond),
            output: some(&self.output)?,
            noise_pred: some(&self.noise_pred)?,
            x_0: some(&self.x_0)?,
            coefficients: some(&self.coefficients)?,
            making: None,
            ..self.shallow_clone()
        })
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

    /// Those with one entry per step first, [`PER_STEP`] of them.
    fn tensors(&self) -> [(&'static str, &Tensor); PER_STEP + 2] {
        [
            ("timesteps", &self.timesteps),
            ("signal_rates", &self.signal_rates),
            ("noise_rates", &self.noise_rates),
            ("x_t", &self.x_t),
            ("output", &self.output),
            ("noise_pred", &self.noise_pred),
            ("x_0", &self.x_0),
            ("coefficients", &self.coefficients),
            ("latents", &self.latents),
            ("image", &self.image),
        ]
    }

    fn outputs(&self) -> [(&'static str, &[Option<Tensor>]); 2] {
        [("output_uncond", &self.output_uncond), ("output_cond", &self.output_cond)]
    }

    /// Writes the trace; `texts` are kept with it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, texts: &[(String, String)]) -> Result<()> {
        let named = self.tensors().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        let mut named = Vec::from(named);
        for (name, outputs) in self.outputs() {
            named.extend(packed(name, outputs)?);
        }
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
        let mut trace = Self {
            prediction: prediction
                .ok_or_else(|| no_trace("it does not say what the outputs predict"))?,
            timesteps: file.tensor("timesteps")?,
            signal_rates: file.tensor("signal_rates")?,
            noise_rates: file.tensor("noise_rates")?,
            x_t: file.tensor("x_t")?,
            output_uncond: Vec::new(),
            output_cond: Vec::new(),
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
            making: None,
        };
        let n = trace.len();
        let per_step = trace.tensors();
        let whole = per_step[..PER_STEP].iter().all(|(_, t)| t.size().first() == Some(&(n as i64)));
        let lists = per_step[..3].iter().all(|(_, t)| t.dim() == 1);
        if !whole || !lists {
            return Err(no_trace("its tensors differ in length"));
        }
        let outputs = |name: &str| {
            unpacked(&file, name, n).and_then(|outputs| {
                outputs.ok_or_else(|| no_trace(&format!("its {name} does not fit its steps")))
            })
        };
        trace.output_uncond = outputs("output_uncond")?;
        trace.output_cond = outputs("output_cond")?;
        Ok(trace)
    }
}

/// How the steps are called that have an output, beside the outputs.
fn steps_of(name: &str) -> String {
    format!("{name}_steps")
}

/// The outputs that there are as one tensor, and the steps that they are of.
fn packed(name: &str, outputs: &[Option<Tensor>]) -> Result<Vec<(String, Tensor)>> {
    let there: Vec<(i64, &Tensor)> =
        (0..).zip(outputs).filter_map(|(i, output)| Some((i, output.as_ref()?))).collect();
    let (steps, tensors): (Vec<i64>, Vec<&Tensor>) = there.into_iter().unzip();
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    let steps = (steps_of(name), Tensor::from_slice(&steps));
    Ok(vec![(name.to_owned(), Tensor::f_stack(&tensors, 0)?), steps])
}

/// The outputs of a file, one a step; `None` if they do not fit their steps.
fn unpacked(file: &TensorFile, name: &str, steps: usize) -> Result<Option<Vec<Option<Tensor>>>> {
    let mut outputs: Vec<Option<Tensor>> = (0..steps).map(|_| None).collect();
    if file.shape(name).is_none() {
        return Ok(Some(outputs));
    }
    let (values, at) = (file.tensor(name)?, file.tensor(&steps_of(name))?);
    if at.dim() != 1 || at.kind() != Kind::Int64 || values.size().first() != Some(&at.size()[0]) {
        return Ok(None);
    }
    for (i, value) in Vec::<i64>::try_from(&at)?.into_iter().zip(values.unbind(0)) {
        let place = usize::try_from(i).ok().and_then(|i| outputs.get_mut(i));
        let Some(place) = place else { return Ok(None) };
        *place = Some(value);
    }
    Ok(Some(outputs))
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
            output_uncond: Some(normal(2)?),
            output_cond: Some(normal(3)?),
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
            for ((_, a), (_, b)) in trace.outputs().into_iter().zip(loaded.outputs()) {
                assert!(a.iter().flatten().zip(b.iter().flatten()).all(|(a, b)| a.equal(b)));
                assert_eq!((b.len(), b.iter().flatten().count()), (2, 2));
            }
            let (uncond, cond) = (loaded.noise_uncond()?, loaded.noise_cond()?);
            for (i, step) in (0..).zip(&steps) {
                let apart = |a: Tensor, b: Tensor| (a - b).abs().max().double_value(&[]);
                assert!(apart(uncond.get(i), step.noise_uncond()?.unwrap()) < 1e-6);
                assert!(apart(cond.get(i), step.noise_cond()?.unwrap()) < 1e-6);
            }
            let raw = uncond.get(0).equal(loaded.output_uncond[0].as_ref().unwrap());
            assert_eq!(raw, prediction == Prediction::Epsilon);
            // v = signal_rate eps - noise_rate x_0 of a sample of variance 1.
            if prediction == Prediction::V {
                let output = steps[0].output_cond.as_ref().unwrap();
                let noise: Tensor = 0.8 * &steps[0].x_t + 0.6 * output;
                assert!((cond.get(0) - noise).abs().max().double_value(&[]) < 1e-6);
            }
        }
        Ok(())
    }

    /// A step that needed one output has one, also after a file.
    #[test]
    fn what_was_not_asked_for_is_absent() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.safetensors");
        let mut steps = [step(3, Prediction::V)?, step(2, Prediction::V)?, step(1, Prediction::V)?];
        (steps[0].output_uncond, steps[2].output_cond) = (None, None);
        let (latents, image) =
            (standard_normal(&[1, 4, 2, 2], 0)?, standard_normal(&[1, 3, 4, 4], 0)?);
        Trace::new(&steps, generation(latents, image))?.save(&path, &[])?;
        let trace = Trace::load(&path)?;
        let there = |all: &[Option<Tensor>]| all.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(there(&trace.output_uncond), [false, true, true]);
        assert_eq!(there(&trace.output_cond), [true, true, false]);
        let said = trace.noise_uncond().unwrap_err().to_string();
        assert!(said.contains("none at step 1; a guidance scale of 1 needs no"), "{said}");
        let said = trace.noise_cond().unwrap_err().to_string();
        assert!(said.contains("none at step 3; a guidance scale of 0 needs no"), "{said}");
        let guided = trace.guided_steps()?;
        assert_eq!((guided.len(), guided.timesteps.double_value(&[0])), (1, 200.));
        assert!(guided.noise_cond()?.get(0).equal(&steps[1].noise_cond()?.unwrap()));
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
        let whole = trace.noise_rates.shallow_clone();
        trace.noise_rates = trace.noise_rates.narrow(0, 0, 1);
        assert!(trace.noise_cond().is_err());
        trace.save(&path, &[])?;
        let said = Trace::load(&path).unwrap_err().to_string();
        assert!(said.contains("differ in length"), "{said}");
        // Outputs of steps that are not there.
        trace.noise_rates = whole;
        trace.output_cond.push(trace.output_cond[0].as_ref().map(Tensor::shallow_clone));
        trace.save(&path, &[])?;
        let said = Trace::load(&path).unwrap_err().to_string();
        assert!(said.contains("its output_cond does not fit its steps"), "{said}");
        let tensors = [("timesteps".to_owned(), Tensor::from_slice(&[1f32]))];
        write_tensors(&path, &tensors, &[])?;
        let said = Trace::load(&path).unwrap_err().to_string();
        assert!(said.contains("what the outputs predict"), "{said}");
        Ok(())
    }
}
