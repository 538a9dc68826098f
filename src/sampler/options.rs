//! The options of all samplers: what a scheduler's file can say of how a step is taken.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The options of all samplers. A method reads its own and ignores the others.
#[derive(Clone, Copy, PartialEq)]
pub struct Options {
    /// DDIM: how much fresh noise every step adds, from 0 (deterministic) to 1 (as noisy as DDPM).
    pub eta: f64,
    /// PNDM: whether the first three steps are Runge-Kutta steps, of four evaluations each.
    pub runge_kutta: bool,
    /// DPM-Solver and DPM-Solver++: which of the solvers.
    pub dpm_solver: DpmSolver,
    /// UniPC: which of the solvers.
    pub unipc: UniPc,
    /// DEIS: which of the solvers.
    pub deis: Deis,
    /// LCM: the number of steps of the teacher's sampler that the model was distilled from.
    pub original_steps: usize,
}

/// What differs from [`Options::DEFAULT`].
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (usual, mut said) = (Self::DEFAULT, f.debug_struct("Options"));
        let mut field = |name: &str, differs: bool, value: &dyn fmt::Debug| {
            if differs {
                said.field(name, value);
            }
        };
        field("eta", self.eta != usual.eta, &self.eta);
        field("runge_kutta", self.runge_kutta != usual.runge_kutta, &self.runge_kutta);
        field("dpm_solver", self.dpm_solver != usual.dpm_solver, &self.dpm_solver);
        field("unipc", self.unipc != usual.unipc, &self.unipc);
        field("deis", self.deis != usual.deis, &self.deis);
        field("original_steps", self.original_steps != usual.original_steps, &self.original_steps);
        said.finish_non_exhaustive()
    }
}

impl Options {
    /// What holds where nothing is said.
    pub const DEFAULT: Self = Self {
        eta: 0.,
        runge_kutta: false,
        dpm_solver: DpmSolver::MULTISTEP,
        unipc: UniPc::DEFAULT,
        deis: Deis::DEFAULT,
        original_steps: 50,
    };

    /// Whether the same name on the command line stands for both: names tell solvers apart, not their details.
    pub(super) fn share_a_name(&self, other: &Self) -> bool {
        let kind = |o: &Self| {
            let dpm = o.dpm_solver;
            (o.runge_kutta, dpm.order, dpm.single, dpm.form, dpm.sde, o.unipc.order)
        };
        kind(self) == kind(other)
    }
}

/// What a DPM-Solver expands: the picture that the model saw (DPM-Solver++), or the noise (DPM-Solver).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SolverForm {
    /// The picture: DPM-Solver++.
    Data,
    /// The noise: DPM-Solver.
    Noise,
}

/// How the integral of the first derivative is taken; the names are diffusers' `solver_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SolverType {
    /// To first order: half of the value's own integral.
    Midpoint,
    /// Exactly.
    Heun,
}

/// Which of the DPM-Solvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpmSolver {
    /// 1 to 3.
    pub order: usize,
    /// Whether a step of order k starts again from the sample of k evaluations ago, and the next step has order 1;
    /// otherwise every step uses the evaluations before it.
    pub single: bool,
    /// What is expanded.
    pub form: SolverForm,
    /// Whether fresh noise is added: the solver of the stochastic equation.
    pub sde: bool,
    /// How the integral of the first derivative is taken.
    pub solver_type: SolverType,
    /// Whether the last steps have a lower order: those of a multistep solver if there are fewer than 15, those of a
    /// single-step solver always. A single-step solver ends so anyway where the number of steps or the end asks for it.
    pub lower_order_final: bool,
    /// Whether the last step is of order 1.
    pub euler_at_final: bool,
}

impl DpmSolver {
    /// DPM-Solver++ 2M.
    pub const MULTISTEP: Self = Self {
        order: 2,
        single: false,
        form: SolverForm::Data,
        sde: false,
        solver_type: SolverType::Midpoint,
        lower_order_final: true,
        euler_at_final: false,
    };

    /// DPM-Solver++ 2S.
    pub const SINGLESTEP: Self = Self { single: true, lower_order_final: false, ..Self::MULTISTEP };
}

/// Which of the UniPC solvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UniPc {
    /// 1 to 3.
    pub order: usize,
    /// Whether B(h) is `exp(h) - 1`; otherwise `h`.
    pub bh2: bool,
    /// Whether the picture that the model saw is expanded; otherwise the noise.
    pub predict_x0: bool,
    /// Whether the last steps have a lower order.
    pub lower_order_final: bool,
}

impl UniPc {
    /// UniPC-2 with B2, on the picture.
    pub const DEFAULT: Self =
        Self { order: 2, bh2: true, predict_x0: true, lower_order_final: true };
}

/// Which of the DEIS solvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deis {
    /// 1 to 3.
    pub order: usize,
    /// Whether the last two steps have a lower order if there are fewer than 15.
    pub lower_order_final: bool,
}

impl Deis {
    /// tAB-DEIS of order 2.
    pub const DEFAULT: Self = Self { order: 2, lower_order_final: true };
}
