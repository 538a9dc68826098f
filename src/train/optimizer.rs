//! AdamW and Muon with f32 master weights, and their moving average.

use tch::{Kind, Tensor, no_grad};

use super::workers::{at_once, share_out};
use crate::{Error, Result};

/// How a step is taken.
#[derive(Debug, Clone, Copy)]
pub struct OptimizerConfig {
    /// How fast the mean of the gradients forgets.
    pub beta1: f64,
    /// How fast the mean of their squares forgets.
    pub beta2: f64,
    /// Keeps the division finite.
    pub eps: f64,
    /// How much of a matrix is lost a step, times the learning rate. Biases, norms and embeddings lose none.
    pub weight_decay: f64,
    /// The largest norm of all gradients together; larger ones are scaled down to it.
    pub max_grad_norm: f64,
    /// How slowly the moving average follows, in the long run.
    pub ema_decay: f64,
    /// Step the matrices and convolutions between the first and the last layer by Muon, and
    /// only the rest by AdamW.
    pub muon: bool,
}

/// How fast Muon's mean of the gradients forgets.
const MOMENTUM: f64 = 0.95;

/// The nearest semi-orthogonal matrix, about: five Newton-Schulz iterations, which bring every singular
/// value of `x` [m, n] near 1.
///
/// ```text
/// X = G / |G|      five times: A = X X^T,  X = (3.4445 I + (-4.7750 I + 2.0315 A) A) X
/// ```
/// Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
pub fn orthogonal(gradient: &Tensor) -> Tensor {
    let tall = gradient.size()[0] > gradient.size()[1];
    let wide = |x: &Tensor| if tall { x.transpose(0, 1) } else { x.shallow_clone() };
    // The iterations forgive bf16's rounding.
    let kind = crate::device::training_kind(gradient.device());
    let mut x = wide(gradient).to_kind(kind);
    x /= x.norm().to_kind(kind) + 1e-7;
    for _ in 0..5 {
        let a = x.matmul(&x.transpose(0, 1));
        let inner = plus_identity(&a * 2.0315, -4.7750);
        x = plus_identity(inner.matmul(&a), 3.4445).matmul(&x);
    }
    wide(&x).to_kind(gradient.kind())
}

/// `x + scale I`, of a square x.
fn plus_identity(x: Tensor, scale: f64) -> Tensor {
    let mut diagonal = x.diagonal(0, 0, 1);
    diagonal += scale;
    x
}

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

/// One trainable tensor and what the optimiser keeps of it, all in f32.
struct Slot {
    name: String,
    /// What the network computes with, in its dtype; one for each of its replicas.
    variables: Vec<Tensor>,
    /// The replicas' gradients together.
    grad: Option<Tensor>,
    master: Tensor,
    mean: Tensor,
    square: Tensor,
    ema: Tensor,
}

/// The parts of a [`Slot`] in a checkpoint.
const PARTS: [&str; 4] = ["master", "mean", "square", "ema"];

impl Slot {
    fn parts(&self) -> [&Tensor; 4] {
        [&self.master, &self.mean, &self.square, &self.ema]
    }

    /// A matrix or a convolution, no table of vectors.
    fn decays(&self) -> bool {
        self.master.dim() > 1 && !self.name.contains("embedding.weight")
    }

    /// Whether Muon can step it.
    fn is_inner(&self) -> bool {
        self.decays() && !["conv_in.", "conv_out."].iter().any(|edge| self.name.contains(edge))
    }

    /// Gives the network, and its replicas, these weights.
    fn put(&self, weights: &Tensor) {
        for variable in &self.variables {
            no_grad(|| variable.detach().copy_(weights));
        }
    }

    /// Adds up the replicas' gradients; returns the sum of their squares.
    fn collect(&mut self) -> f64 {
        let grads = self.variables.iter().map(Tensor::grad).filter(Tensor::defined);
        self.grad = grads.map(|grad| grad.to_kind(Kind::Float)).reduce(|sum, grad| sum + grad);
        let square = |grad: &Tensor| grad.square().sum(Kind::Float).double_value(&[]);
        self.grad.as_ref().map_or(0., square)
    }

    /// Takes the `k`-th step.
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
        // A young average follows quickly, so that it does not remember the start.
        let follow = 1. - ema_decay.min((1. + f64::from(k)) / (10. + f64::from(k)));
        let _ = self.ema.lerp_(&self.master, follow);
        self.put(&self.master);
    }
}

/// The state of a training: everything that a step changes.
pub struct Optimizer {
    config: OptimizerConfig,
    slots: Vec<Slot>,
    threads: usize,
    /// The number of steps taken.
    pub step: u64,
}

impl Optimizer {
    /// Starts from the tensors of a network, or of replicas of one: all get the weights of the first. As many
    /// threads as there are replicas share out the work of a step.
    ///
    /// # Errors
    /// No network; replicas that differ.
    pub fn new(replicas: Vec<Vec<(String, Tensor)>>, config: OptimizerConfig) -> Result<Self> {
        let wrong =
            |got: &str| Error::argument("the networks to be trained", "replicas of one", got, "");
        let Some(first) = replicas.first() else { return Err(wrong("none")) };
        let names = |of: &[(String, Tensor)]| -> Vec<(String, Vec<i64>)> {
            of.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect()
        };
        if replicas.iter().any(|other| names(other) != names(first)) {
            return Err(wrong("others"));
        }
        let slot = |(i, (name, variable)): (usize, &(String, Tensor))| {
            let master = variable.detach().to_kind(Kind::Float).copy();
            let slot = Slot {
                name: name.clone(),
                variables: replicas.iter().map(|other| other[i].1.shallow_clone()).collect(),
                grad: None,
                mean: master.zeros_like(),
                square: master.zeros_like(),
                ema: master.copy(),
                master,
            };
            slot.put(&slot.master);
            slot
        };
        let slots = first.iter().enumerate().map(slot).collect();
        Ok(Self { config, slots, threads: replicas.len(), step: 0 })
    }

    /// Forgets the gradients, those of the loss are to be had next.
    pub fn zero_grad(&mut self) {
        for variable in self.slots.iter_mut().flat_map(|slot| &mut slot.variables) {
            variable.zero_grad();
        }
    }

    /// One step on the gradients of the replicas, taken together; returns their norm.
    ///
    /// ```text
    /// m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
    /// w = w - rate (m / (1 - b1^k) / (sqrt(v / (1 - b2^k)) + eps) + weight_decay w)
    /// ```
    /// Loshchilov & Hutter 2019, algorithm 2. A matrix w [m, n] that Muon steps:
    ///
    /// ```text
    /// m = b m + (1 - b) g      w = w - rate (0.2 sqrt(max(m, n)) orthogonal(b m + (1 - b) g) + weight_decay w)
    /// ```
    /// Jordan et al. 2024; the factor is Liu et al. 2025, "Muon is scalable for LLM training", eq. 4: with it
    /// both step equally far.
    ///
    /// # Errors
    /// A gradient that is not finite: the training has diverged.
    pub fn step(&mut self, learning_rate: f64) -> Result<f64> {
        self.step += 1;
        let cost = |slot: &&mut Slot| slot.master.numel();
        let mut groups = share_out(self.slots.iter_mut(), self.threads, cost);
        let squares = at_once(&mut groups, |group| {
            no_grad(|| group.iter_mut().map(|slot| slot.collect()).sum::<f64>())
        });
        let norm = squares.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(Error::argument(
                "gradient",
                "finite numbers",
                norm,
                "the training has diverged: resume from the last checkpoint with a lower learning rate",
            ));
        }
        let (config, k) = (self.config, self.step.min(i32::MAX as u64) as i32);
        let clip = (config.max_grad_norm / (norm + 1e-6)).min(1.);
        at_once(&mut groups, |group| {
            no_grad(|| {
                group.iter_mut().for_each(|slot| slot.update(&config, k, learning_rate, clip))
            });
        });
        Ok(norm)
    }

    /// Runs `look` while the network has the averaged weights.
    pub fn with_average<T>(&self, look: impl FnOnce() -> T) -> T {
        self.slots.iter().for_each(|slot| slot.put(&slot.ema));
        let seen = look();
        self.slots.iter().for_each(|slot| slot.put(&slot.master));
        seen
    }

    /// The averaged weights by name.
    pub fn average(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.ema))
    }

    /// Everything that a checkpoint needs.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let named = |slot: &Slot| {
            let parts = PARTS.iter().zip(slot.parts());
            let named = parts.map(|(part, t)| (format!("{part}.{}", slot.name), t.shallow_clone()));
            named.collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(named).collect()
    }

    /// Goes back to a checkpoint's state.
    ///
    /// # Errors
    /// A checkpoint of another network.
    pub fn restore(&mut self, file: &crate::weights::TensorFile, step: u64) -> Result<()> {
        for slot in &mut self.slots {
            for (part, tensor) in PARTS.iter().zip(slot.parts()) {
                let saved = file.tensor(&format!("{part}.{}", slot.name))?;
                if saved.size() != tensor.size() {
                    let what = format!("{part}.{} of the checkpoint", slot.name);
                    return Err(Error::shape(what, format!("{:?}", tensor.size()), &saved.size()));
                }
                no_grad(|| tensor.shallow_clone().copy_(&saved));
            }
            slot.put(&slot.master);
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
    fn orthogonal_brings_the_singular_values_near_one_and_keeps_the_vectors() {
        for size in [[12, 40], [40, 12]] {
            let gradient = standard_normal(&size, 1).unwrap() * 7.;
            let (u, _, v) = gradient.svd(true, true);
            let inner = u.transpose(0, 1).matmul(&orthogonal(&gradient)).matmul(&v);
            let values = inner.diagonal(0, 0, 1);
            let (low, high) = (values.min().double_value(&[]), values.max().double_value(&[]));
            assert!(low > 0.6 && high < 1.3, "{size:?}: {low} to {high}");
            let rest = (&inner - values.diag(0)).abs().max().double_value(&[]);
            assert!(rest < 0.05, "{size:?}: {rest}");
        }
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

    /// Two replicas with a half of the loss each step as one network does, and stay alike.
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
