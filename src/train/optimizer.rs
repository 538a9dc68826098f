//! AdamW and Muon with f32 master weights, and their moving average.

use std::fmt;

use tch::{Device, Kind, Tensor, no_grad};

use super::muon::orthogonal;
use super::parallel::{at_once, share_out};
use crate::tensor_file::TensorFile;
use crate::{Error, Result};

/// How a step is taken.
#[derive(Debug, Clone, Copy)]
pub struct OptimizerConfig {
    /// The decay of the mean of the gradients.
    pub beta1: f64,
    /// The decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the divisor to keep it above 0.
    pub eps: f64,
    /// The share of a matrix that decays per step, times the learning rate. Biases, norms and embeddings do not
    /// decay.
    pub weight_decay: f64,
    /// The largest norm of all gradients together; larger gradients are scaled down to it.
    pub max_grad_norm: f64,
    /// The decay of the moving average of the weights, in the long run.
    pub ema_decay: f64,
    /// Update the matrices and convolutions between the first and the last layer by Muon, and the rest by
    /// AdamW.
    pub muon: bool,
}

impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Optimizer {{ {} tensors, step {} }}", self.tensors.len(), self.step)
    }
}

/// The decay of Muon's mean of the gradients.
const MOMENTUM: f64 = 0.95;

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: 1.,
            ema_decay: 0.999,
            muon: false,
        }
    }
}

/// A trainable tensor and what the optimizer keeps of it, all in f32.
struct TrainedTensor {
    name: String,
    /// The tensors that the replicas of the network compute with, in its dtype.
    variables: Vec<Tensor>,
    /// The sum of the replicas' gradients.
    grad: Option<Tensor>,
    master: Tensor,
    mean: Tensor,
    square: Tensor,
    ema: Tensor,
}

/// The names of a [`TrainedTensor`]'s state in a checkpoint.
const STATE_NAMES: [&str; 4] = ["master", "mean", "square", "ema"];

impl TrainedTensor {
    fn state(&self) -> [&Tensor; 4] {
        [&self.master, &self.mean, &self.square, &self.ema]
    }

    /// Whether it is a matrix or a convolution, and not a table of vectors.
    fn decays(&self) -> bool {
        self.master.dim() > 1 && !self.name.contains("embedding.weight")
    }

    /// Whether Muon can update it.
    fn is_inner(&self) -> bool {
        self.decays() && !["conv_in.", "conv_out."].iter().any(|edge| self.name.contains(edge))
    }

    /// Copies these weights into every replica.
    fn put(&self, weights: &Tensor) {
        for variable in &self.variables {
            no_grad(|| variable.detach().copy_(weights));
        }
    }

    /// Adds up the replicas' gradients; returns the sum of the squares, which is not read yet.
    fn collect(&mut self) -> Option<Tensor> {
        let grads = self.variables.iter().map(Tensor::grad).filter(Tensor::defined);
        self.grad = grads.map(|grad| grad.to_kind(Kind::Float)).reduce(|sum, grad| sum + grad);
        self.grad.as_ref().map(|grad| grad.square().sum(Kind::Float))
    }

    /// Takes the `k`-th step, with the gradients multiplied by `clip`.
    fn update(&mut self, config: &OptimizerConfig, k: i32, learning_rate: f64, clip: f64) {
        let OptimizerConfig { beta1, beta2, eps, weight_decay, ema_decay, muon, .. } = *config;
        let Some(mut grad) = self.grad.take() else { return };
        grad *= clip;
        if self.decays() {
            self.master *= 1. - learning_rate * weight_decay;
        }
        if muon && self.is_inner() {
            let _ = self.mean.lerp_(&grad, 1. - MOMENTUM);
            let ahead = self.mean.lerp(&grad, 1. - MOMENTUM).flatten(1, -1);
            let longer = ahead.size().into_iter().max().unwrap_or(1) as f64;
            let rate = learning_rate * 0.2 * longer.sqrt();
            self.master -= orthogonal(&ahead).view_as(&self.master) * rate;
        } else {
            let (mean_bias, square_bias) = (1. - beta1.powi(k), 1. - beta2.powi(k));
            let _ = self.mean.lerp_(&grad, 1. - beta1);
            self.square *= beta2;
            let _ = self.square.addcmul_(&grad, &(&grad * (1. - beta2)));
            let spread = (&self.square / square_bias).sqrt_() + eps;
            let _ = self.master.addcdiv_(&(&self.mean * (-learning_rate / mean_bias)), &spread);
        }
        // In the first steps the average follows quickly, so that it forgets the initial weights.
        let follow = 1. - ema_decay.min((1. + f64::from(k)) / (10. + f64::from(k)));
        let _ = self.ema.lerp_(&self.master, follow);
        self.put(&self.master);
    }
}

/// Reads tensors of one number each in one go.
fn read_numbers(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    let flat = |x: &&Tensor| x.detach().f_to_kind(Kind::Float)?.f_reshape([1]);
    let flat = tensors.iter().map(flat).collect::<std::result::Result<Vec<_>, _>>()?;
    let numbers = Tensor::f_cat(&flat, 0)?.f_to_device(Device::Cpu)?;
    Ok(Vec::<f32>::try_from(numbers)?.into_iter().map(f64::from).collect())
}

/// The state of a training: everything that a step changes.
pub struct Optimizer {
    config: OptimizerConfig,
    tensors: Vec<TrainedTensor>,
    threads: usize,
    /// The number of steps taken.
    pub step: u64,
}

impl Optimizer {
    /// Starts from the tensors of the replicas of a network: all get the weights of the first. There are as many
    /// threads as replicas for the work of a step.
    ///
    /// # Errors
    /// No network; replicas that differ.
    pub fn new(replicas: Vec<Vec<(String, Tensor)>>, config: OptimizerConfig) -> Result<Self> {
        let wrong =
            |got: &str| Error::argument("the networks to be trained", "replicas of one", got);
        let Some(first) = replicas.first() else { return Err(wrong("none")) };
        let names = |of: &[(String, Tensor)]| -> Vec<(String, Vec<i64>)> {
            of.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect()
        };
        if replicas.iter().any(|other| names(other) != names(first)) {
            return Err(wrong("others"));
        }
        let trained = |(i, (name, variable)): (usize, &(String, Tensor))| {
            let master = variable.detach().to_kind(Kind::Float).copy();
            let tensor = TrainedTensor {
                name: name.clone(),
                variables: replicas.iter().map(|other| other[i].1.shallow_clone()).collect(),
                grad: None,
                mean: master.zeros_like(),
                square: master.zeros_like(),
                ema: master.copy(),
                master,
            };
            tensor.put(&tensor.master);
            tensor
        };
        let tensors = first.iter().enumerate().map(trained).collect();
        Ok(Self { config, tensors, threads: replicas.len(), step: 0 })
    }

    /// Clears the gradients, before those of the next loss.
    pub fn zero_grad(&mut self) {
        for variable in self.tensors.iter_mut().flat_map(|tensor| &mut tensor.variables) {
            variable.zero_grad();
        }
    }

    /// Takes one step along the sum of the replicas' gradients; returns its norm.
    ///
    /// ```text
    /// m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
    /// w = w - rate (m / (1 - b1^k) / (sqrt(v / (1 - b2^k)) + eps) + weight_decay w)
    /// ```
    /// Loshchilov & Hutter 2019, algorithm 2. For a matrix w [m, n] that Muon updates:
    ///
    /// ```text
    /// m = b m + (1 - b) g      w = w - rate (0.2 sqrt(max(m, n)) orthogonal(b m + (1 - b) g) + weight_decay w)
    /// ```
    /// Jordan et al. 2024, with the factor of Liu et al. 2025, "Muon is scalable for LLM training", eq. 4, which
    /// makes the steps of both equally large.
    ///
    /// # Errors
    /// A gradient that is not finite: the training has diverged.
    pub fn step(&mut self, learning_rate: f64) -> Result<f64> {
        Ok(self.step_and_read(learning_rate, &[])?.0)
    }

    /// The same; reads `more`, tensors of one number each, together with the norm, so that a step waits once for the
    /// device.
    pub(super) fn step_and_read(
        &mut self,
        learning_rate: f64,
        more: &[&Tensor],
    ) -> Result<(f64, Vec<f64>)> {
        self.step += 1;
        let cost = |tensor: &&mut TrainedTensor| tensor.master.numel();
        let mut groups = share_out(self.tensors.iter_mut(), self.threads, cost);
        let squares: Vec<Vec<Tensor>> = at_once(&mut groups, |group| {
            no_grad(|| group.iter_mut().filter_map(|tensor| tensor.collect()).collect())
        });
        let all: Vec<&Tensor> = more.iter().copied().chain(squares.iter().flatten()).collect();
        let mut numbers = read_numbers(&all)?;
        let mut rest = numbers.split_off(more.len()).into_iter();
        let sums = squares.iter().map(|group| rest.by_ref().take(group.len()).sum::<f64>());
        let norm = sums.sum::<f64>().sqrt();
        if !norm.is_finite() {
            let todo = "the training has diverged: resume from the last checkpoint with a lower \
                        learning rate";
            return Err(Error::argument("gradient", "finite numbers", norm).hint(todo));
        }
        let (config, k) = (self.config, self.step.min(i32::MAX as u64) as i32);
        let clip = (config.max_grad_norm / (norm + 1e-6)).min(1.);
        at_once(&mut groups, |group| {
            no_grad(|| {
                group.iter_mut().for_each(|tensor| tensor.update(&config, k, learning_rate, clip))
            });
        });
        Ok((norm, numbers))
    }

    /// Calls `use_network` while the network has the averaged weights.
    pub fn with_average<T>(&self, use_network: impl FnOnce() -> T) -> T {
        self.tensors.iter().for_each(|tensor| tensor.put(&tensor.ema));
        let result = use_network();
        self.tensors.iter().for_each(|tensor| tensor.put(&tensor.master));
        result
    }

    /// The averaged weights by name.
    pub fn average(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.ema))
    }

    /// The tensors of a checkpoint.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let named = |tensor: &TrainedTensor| {
            let parts = STATE_NAMES.iter().zip(tensor.state());
            let named =
                parts.map(|(part, t)| (format!("{part}.{}", tensor.name), t.shallow_clone()));
            named.collect::<Vec<_>>()
        };
        self.tensors.iter().flat_map(named).collect()
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// A checkpoint of another network.
    pub fn restore(&mut self, file: &TensorFile, step: u64) -> Result<()> {
        for trained in &mut self.tensors {
            for (part, tensor) in STATE_NAMES.iter().zip(trained.state()) {
                let saved = file.tensor(&format!("{part}.{}", trained.name))?;
                if saved.size() != tensor.size() {
                    let what = format!("{part}.{} of the checkpoint", trained.name);
                    return Err(Error::shape(what, format!("{:?}", tensor.size()), &saved.size()));
                }
                no_grad(|| tensor.shallow_clone().copy_(&saved));
            }
            trained.put(&trained.master);
        }
        self.step = step;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    fn minimize(optimizer: &mut Optimizer, loss: &Tensor, learning_rate: f64) -> Result<f64> {
        optimizer.zero_grad();
        loss.backward();
        optimizer.step(learning_rate)
    }

    fn named(name: &str, tensor: &Tensor) -> Vec<(String, Tensor)> {
        vec![(name.into(), tensor.shallow_clone())]
    }

    #[test]
    fn the_first_steps_are_those_of_the_equation() -> Result<()> {
        let w = Tensor::from_slice(&[1f32, -2.]).view([1, 2]).set_requires_grad(true);
        let settings = OptimizerConfig { max_grad_norm: 1e9, ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new(vec![named("w", &w)], settings)?;
        let (mut x, mut m, mut v) = ([1f64, -2.], [0f64; 2], [0f64; 2]);
        for k in 1..=5 {
            minimize(&mut optimizer, &w.square().sum(Kind::Float), 0.1)?;
            for i in 0..2 {
                let g = 2. * x[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let (mh, vh) = (m[i] / (1. - 0.9f64.powi(k)), v[i] / (1. - 0.99f64.powi(k)));
                x[i] -= 0.1 * (mh / (vh.sqrt() + 1e-8) + 0.01 * x[i]);
                assert!((w.double_value(&[0, i as i64]) - x[i]).abs() < 1e-5, "step {k}");
            }
        }
        Ok(())
    }

    #[test]
    fn muon_steps_inner_matrices_alone() -> Result<()> {
        let moved = |muon| -> Result<Vec<f64>> {
            let names = ["conv_in.weight", "inner.weight", "inner.bias"];
            let shapes = [vec![3, 4, 1, 1], vec![3, 4], vec![4]];
            let tensors: Vec<Tensor> = shapes
                .iter()
                .map(|shape| Ok(standard_normal(shape, 2)?.set_requires_grad(true)))
                .collect::<Result<_>>()?;
            let named = names.iter().zip(&tensors).map(|(n, t)| (n.to_string(), t.shallow_clone()));
            let config = OptimizerConfig { muon, weight_decay: 0., ..OptimizerConfig::default() };
            let mut optimizer = Optimizer::new(vec![named.collect()], config)?;
            let before: Vec<Tensor> = tensors.iter().map(Tensor::copy).collect();
            let loss = tensors.iter().map(|t| t.square().sum(Kind::Float)).sum::<Tensor>();
            minimize(&mut optimizer, &loss, 0.1)?;
            let far = |(a, b): (&Tensor, &Tensor)| (a - b).norm().double_value(&[]);
            Ok(tensors.iter().zip(&before).map(far).collect())
        };
        let (adamw, muon) = (moved(false)?, moved(true)?);
        assert_eq!((adamw[0], adamw[2]), (muon[0], muon[2]));
        // Three singular values of about 1, times 0.1 * 0.2 * sqrt(4).
        assert!((muon[1] / (3f64.sqrt() * 0.04) - 1.).abs() < 0.3, "{muon:?}");
        Ok(())
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_an_error() {
        let w = Tensor::from_slice(&[0f32]).set_requires_grad(true);
        let config = OptimizerConfig::default();
        let mut optimizer = Optimizer::new(vec![named("w", &w)], config).unwrap();
        assert!(minimize(&mut optimizer, &w.sqrt().sum(Kind::Float), 0.1).is_err());
    }

    /// Two replicas with a part of the loss each step as one network does, and stay equal.
    #[test]
    fn replicas_together_step_as_one() -> Result<()> {
        let config = OptimizerConfig { muon: true, ..OptimizerConfig::default() };
        let fresh = |seed| -> Result<Vec<(String, Tensor)>> {
            let tensor = |(name, shape): (&str, &[i64])| -> Result<(String, Tensor)> {
                Ok((name.into(), standard_normal(shape, seed)?.set_requires_grad(true)))
            };
            [("inner.weight", &[3i64, 4][..]), ("bias", &[4])].into_iter().map(tensor).collect()
        };
        let x = standard_normal(&[6, 3], 9)?;
        let loss = |net: &[(String, Tensor)], x: &Tensor| {
            (x.matmul(&net[0].1) + &net[1].1).square().sum(Kind::Float)
        };
        let (one, a, b) = (fresh(1)?, fresh(1)?, fresh(2)?);
        let share = |net: &[(String, Tensor)]| -> Vec<(String, Tensor)> {
            net.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect()
        };
        let mut alone = Optimizer::new(vec![share(&one)], config)?;
        let mut together = Optimizer::new(vec![share(&a), share(&b)], config)?;
        for _ in 0..3 {
            let norm = minimize(&mut alone, &loss(&one, &x), 0.1)?;
            together.zero_grad();
            loss(&a, &x.narrow(0, 0, 2)).backward();
            loss(&b, &x.narrow(0, 2, 4)).backward();
            assert!((together.step(0.1)? / norm - 1.).abs() < 1e-4);
        }
        for ((one, a), b) in one.iter().zip(&a).zip(&b) {
            assert!((&one.1 - &a.1).abs().max().double_value(&[]) < 1e-3);
            assert_eq!(a.1, b.1);
        }
        let names = OptimizerConfig::default();
        assert!(Optimizer::new(vec![], names).is_err());
        assert!(Optimizer::new(vec![named("a", &x), named("b", &x)], names).is_err());
        Ok(())
    }
}
