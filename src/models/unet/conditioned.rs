//! The U-Net as a [`Denoiser`], alone and with fixed conditions.

use std::fmt;

use tch::Tensor;

use super::attention::AttentionMap;
use super::conditions::Conditions;
use super::network::UNet;
use crate::denoiser::{Denoiser, Half};
use crate::timesteps::Timesteps;
use crate::{Error, Result};

impl Denoiser for UNet {
    fn predict(&self, x_t: &Tensor, t: &Timesteps, context: Option<&Tensor>) -> Result<Tensor> {
        let todo = "encode a prompt, the empty one for no condition";
        let context = context
            .ok_or_else(|| Error::argument("context", "[B, tokens, width]", "none").hint(todo))?;
        self.forward(x_t, t, context)
    }
}

/// A U-Net with its conditions, the same at every step.
///
/// A context given by the sampler replaces that of the conditions. Conditions with fewer rows than the
/// sample are repeated, so that [B, ...] serves both halves [uncond, cond] of a guided prediction.
pub struct Conditioned<'a> {
    /// The network.
    pub unet: &'a UNet,
    /// Its conditions.
    pub conditions: Conditions,
}

impl fmt::Debug for Conditioned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conditioned {{ {:?} }}", self.conditions)
    }
}

impl Conditioned<'_> {
    /// The conditions for a sample, with the context that the sampler gives.
    fn given(&self, x_t: &Tensor, context: Option<&Tensor>) -> Result<Conditions> {
        let mut conditions = Conditions::from(&self.conditions);
        if let Some(context) = context {
            conditions.context = context.shallow_clone();
        }
        conditions.for_batch(x_t.size().first().copied().unwrap_or(1))
    }

    /// The conditions of one half of a guided batch alone: of all only the text differs between the halves.
    fn half(&self, half: Half, x_t: &Tensor) -> Result<Self> {
        let mut conditions = Conditions::from(&self.conditions);
        let batch = x_t.size().first().copied().unwrap_or(1);
        // A text of [B, ...] serves both.
        if let Some(both) = conditions.text_embeds.take_if(|x| x.size()[0] == 2 * batch) {
            let first = if half == Half::Uncond { 0 } else { batch };
            conditions.text_embeds = Some(both.f_narrow(0, first, batch)?);
        }
        Ok(Conditioned { unet: self.unet, conditions })
    }

    /// The maps of the attention to the text, of the half with the prompt.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn cross_attention(
        &self,
        x_t: &Tensor,
        t: &Timesteps,
        context: Option<&Tensor>,
    ) -> Result<Vec<AttentionMap>> {
        let conditions = self.half(Half::Cond, x_t)?.given(x_t, context)?;
        Ok(self.unet.forward_with_cross_attention(x_t, t, conditions)?.1)
    }
}

impl Denoiser for Conditioned<'_> {
    fn predict(&self, x_t: &Tensor, t: &Timesteps, context: Option<&Tensor>) -> Result<Tensor> {
        self.unet.forward(x_t, t, self.given(x_t, context)?)
    }

    fn predict_half(
        &self,
        half: Half,
        x_t: &Tensor,
        t: &Timesteps,
        context: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.half(half, x_t)?.predict(x_t, t, context)
    }
}
