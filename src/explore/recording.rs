//! What a page is made of: the traces of one request at one guidance scale or several.

use std::fmt;
use std::ops::ControlFlow;

use tch::Tensor;

use super::attention::{TokenAttention, attention_cells};
use super::replay::making;
use crate::guidance::Guidance;
use crate::measure::token_maps;
use crate::pipeline::{Making, Request, StableDiffusion, Trace};
use crate::short::{Few, starts};
use crate::{Error, Result, interrupt};

/// Most prompts beside each other.
const SIDES: usize = 2;

/// Latents [k, C, h, w] to pictures [k, 3, H, W], as [`StableDiffusion::decode`] does.
pub type DecodeWith<'a> = dyn Fn(&Tensor) -> Result<Tensor> + 'a;

/// The traces of one request, at one guidance scale or several.
pub struct Recording {
    /// One a guidance scale.
    pub(super) traces: Vec<Trace>,
    /// Where the picture looked in the prompts, one a trace; empty where nobody asked.
    pub(super) attention: Vec<TokenAttention>,
    /// What it was made with, for a reader who wants to make it again.
    pub(super) about: Vec<(String, String)>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scales: Vec<String> = self.traces.iter().map(scale_label).collect();
        f.debug_struct("Recording")
            .field("prompts", &Few(&starts(&self.sides())))
            .field("guidance", &Few(&starts(&scales)))
            .field("steps", &self.traces.first().map_or(0, Trace::len))
            .finish_non_exhaustive()
    }
}

impl Recording {
    /// Traces that differ in their guidance scale alone.
    ///
    /// # Errors
    /// No traces, or one without steps or that does not know what it was made with; traces of different prompts, seeds or
    /// steps; more than two prompts.
    pub fn new(traces: Vec<Trace>) -> Result<Self> {
        let first =
            traces.first().ok_or_else(|| Error::argument("traces", "one or more", "none"))?;
        let made = making(first)?;
        for trace in &traces {
            let of = making(trace)?;
            if trace.is_empty() {
                return Err(Error::argument("trace", "at least one step", "none"));
            }
            let positions =
                |m: &Making| m.plan.steps.iter().map(|s| s.position).collect::<Vec<_>>();
            let same = (&of.prompts, &of.seeds) == (&made.prompts, &made.seeds)
                && positions(of) == positions(made)
                && trace.x_t.size() == first.x_t.size()
                && trace.x_t.dim() == 5;
            if !same {
                let got = format!("{of:?} beside {made:?}");
                return Err(Error::argument("traces", "the same prompts, seeds and steps", got));
            }
        }
        let recording = Self { traces, attention: Vec::new(), about: Vec::new() };
        let sides = recording.sides().len();
        if sides > SIDES {
            let todo = "trace two prompts at a time";
            return Err(Error::argument("prompts of a page", "one or two", sides).hint(todo));
        }
        Ok(recording)
    }

    /// Draws a request once for every guidance scale, with both predictions at every step, and with where the picture
    /// looks in the prompts. `each` is called after every pass of the network.
    ///
    /// # Errors
    /// A request that cannot be met; no scale, or one twice; an [`interrupt`].
    pub fn draw(
        model: &StableDiffusion,
        request: &Request,
        scales: &[f64],
        attention: bool,
        mut each: impl FnMut(),
    ) -> Result<Self> {
        if let Some(twice) = (1..scales.len()).find(|&i| scales[..i].contains(&scales[i])) {
            return Err(Error::argument("guidance scales", "each once", scales[twice]));
        }
        let (mut traces, mut maps) = (Vec::new(), Vec::new());
        for &scale in scales {
            let guidance = Guidance { scale, scales: Vec::new(), ..request.guidance.clone() };
            let request = Request { guidance, ..request.clone() };
            let mut trace = model.trace_with(&request, |_| {
                each();
                ControlFlow::Continue(())
            })?;
            interrupt::check(|| format!("while drawing at guidance {scale}"))?;
            let both = |all: &[Option<Tensor>]| all.iter().all(Option::is_some);
            if attention || !both(&trace.output_uncond) || !both(&trace.output_cond) {
                let prepared = model.prepare(&request)?;
                model.ask_for_both(&prepared, &mut trace, &mut each)?;
                if attention {
                    let cells = attention_cells(&trace.latents);
                    let mut steps = Vec::new();
                    model.attend_again(&prepared, &trace, |_, layers| {
                        steps.push(token_maps(&layers, cells)?);
                        each();
                        Ok(())
                    })?;
                    maps.push(TokenAttention::new(&steps, &making(&trace)?.encodings)?);
                }
            }
            traces.push(trace);
        }
        Ok(Self { attention: maps, ..Self::new(traces)? })
    }

    /// Says what it was made with: a name and a value, such as a command, a model or a hash of its weights.
    pub fn about(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.about.push((name.into(), value.into()));
        self
    }

    /// The prompts, each once.
    pub(super) fn sides(&self) -> Vec<String> {
        let mut sides: Vec<String> = Vec::new();
        let all = self.traces.iter().filter_map(|trace| trace.making.as_ref());
        for prompt in all.flat_map(|made| &made.prompts) {
            if !sides.contains(prompt) {
                sides.push(prompt.clone());
            }
        }
        sides
    }
}

/// How the guidance of a trace is called.
pub(super) fn scale_label(trace: &Trace) -> String {
    match &trace.making {
        Some(made) if !made.guidance.scales.is_empty() => "schedule".to_owned(),
        Some(made) => made.guidance.scale.to_string(),
        None => String::new(),
    }
}
