//! What happened at every step, as data: one safetensors file.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::pipeline::Generation;
use crate::sampler::SamplingStep;
use crate::weights::{TensorFile, write_tensors};
use crate::{Error, Result};

/// A generation, step by step. N steps, B pictures.
#[derive(Debug)]
pub struct Trace {
    /// `[N]` f32: what the model was told.
    pub timesteps: Tensor,
    /// [N, B, 4, h, w]: the sample that each step started from.
    pub x_t: Tensor,
    /// [N, B, 4, h, w]: the model's output without the prompt.
    pub noise_uncond: Tensor,
    /// [N, B, 4, h, w]: the model's output with the prompt.
    pub noise_cond: Tensor,
    /// [N, B, 4, h, w]: the guided output.
    pub noise_pred: Tensor,
    /// [N, B, 4, h, w]: x_0 as it looked from there.
    pub x_0: Tensor,
    /// [N, 13] f64: the step's weights of x_0, noise_pred, x_t and fresh noise, and those of x_0, noise_pred and x_t of
    /// the three looks before, see [`crate::sampler::Coefficients`].
    pub coefficients: Tensor,
    /// [B, 4, h, w]: the final latents.
    pub latents: Tensor,
    /// [B, 3, H, W] in [-1, 1]: the pictures.
    pub image: Tensor,
}

const NAMES: [&str; 9] = [
    "timesteps",
    "x_t",
    "noise_uncond",
    "noise_cond",
    "noise_pred",
    "x_0",
    "coefficients",
    "latents",
    "image",
];

impl Trace {
    /// Gathers the records of a sampling and what came of it.
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
        let timesteps: Vec<f32> = steps.iter().map(|s| s.position.t as f32).collect();
        let coefficients: Vec<f64> = steps
            .iter()
            .map(|s| s.coefficients)
            .flat_map(|c| {
                let earlier = c.earlier.map(|w| [w.x_0, w.noise_pred, w.x_t]).concat();
                [vec![c.x_0, c.noise_pred, c.x_t, c.noise], earlier].concat()
            })
            .collect();
        let Generation { latents, image, .. } = generation;
        Ok(Self {
            timesteps: Tensor::from_slice(&timesteps),
            x_t: gather(|s| &s.x_t)?,
            noise_uncond: gather(|s| &s.noise_uncond)?,
            noise_cond: gather(|s| &s.noise_cond)?,
            noise_pred: gather(|s| &s.noise_pred)?,
            x_0: gather(|s| &s.x_0)?,
            coefficients: Tensor::from_slice(&coefficients).view([-1, 13]),
            latents,
            image,
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

    fn tensors(&self) -> [&Tensor; 9] {
        [
            &self.timesteps,
            &self.x_t,
            &self.noise_uncond,
            &self.noise_cond,
            &self.noise_pred,
            &self.x_0,
            &self.coefficients,
            &self.latents,
            &self.image,
        ]
    }

    /// Writes the trace; `texts` are kept with it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, texts: &[(String, String)]) -> Result<()> {
        let named: Vec<(String, Tensor)> = NAMES
            .iter()
            .zip(self.tensors())
            .map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone()))
            .collect();
        write_tensors(path, &named, texts)
    }

    /// Reads a trace back.
    ///
    /// # Errors
    /// A file that cannot be read or is no trace.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let trace = Self {
            timesteps: file.tensor("timesteps")?,
            x_t: file.tensor("x_t")?,
            noise_uncond: file.tensor("noise_uncond")?,
            noise_cond: file.tensor("noise_cond")?,
            noise_pred: file.tensor("noise_pred")?,
            x_0: file.tensor("x_0")?,
            coefficients: file.tensor("coefficients")?,
            latents: file.tensor("latents")?,
            image: file.tensor("image")?,
        };
        let n = trace.len() as i64;
        let whole = trace.tensors()[1..7].iter().all(|t| t.size().first() == Some(&n));
        if trace.timesteps.dim() != 1 || !whole {
            return Err(Error::weights(file.path(), "is no trace: its tensors differ in length"));
        }
        Ok(trace)
    }
}
