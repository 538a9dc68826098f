//! The inputs of a U-Net other than the noisy sample and the timestep.

use tch::{Device, Tensor};

use crate::{Error, Result};

/// The inputs of a U-Net other than the noisy sample and the timestep, under diffusers' names.
///
/// Every family takes the context, and some take more. A U-Net refuses to run without a condition that it
/// needs, or with one that it does not use.
///
/// # Examples
/// ```
/// use diffuscope::models::unet::Conditions;
/// use tch::{Kind, Tensor, kind::FLOAT_CPU};
/// let context = Tensor::zeros([1, 77, 1024], FLOAT_CPU);
/// let noise_level = Tensor::from_slice(&[20i64]);
/// let conditions = Conditions {
///     class_labels: Some(noise_level),
///     channels: Some(Tensor::zeros([1, 3, 128, 128], FLOAT_CPU)),
///     ..Conditions::from(&context)
/// };
/// ```
#[derive(Debug)]
pub struct Conditions {
    /// The text: [B, tokens, cross_attention_dim].
    pub context: Tensor,
    /// SDXL: the second text encoder's pooled embedding, [B, width].
    pub text_embeds: Option<Tensor>,
    /// SDXL: height and width of the original, top and left of the crop, height and width of the target, in
    /// pixels: [B, 6].
    pub time_ids: Option<Tensor>,
    /// The x4 upscaler: the noise level of the small picture, `[B]` int64.
    pub class_labels: Option<Tensor>,
    /// LCM: the embedding of the guidance scale, [B, time_cond_proj_dim], see
    /// [`guidance_embedding`](super::guidance_embedding).
    pub timestep_cond: Option<Tensor>,
    /// Channels that are appended to the sample's, [B, c, h, w]: the mask and the masked picture's latents,
    /// the depth, or the small picture.
    pub channels: Option<Tensor>,
}

impl From<Tensor> for Conditions {
    /// The context alone.
    fn from(context: Tensor) -> Self {
        Self {
            context,
            text_embeds: None,
            time_ids: None,
            class_labels: None,
            timestep_cond: None,
            channels: None,
        }
    }
}

impl From<&Tensor> for Conditions {
    /// The context alone.
    fn from(context: &Tensor) -> Self {
        Self::from(context.shallow_clone())
    }
}

impl From<&Conditions> for Conditions {
    /// Shallow clones of the tensors.
    fn from(conditions: &Conditions) -> Self {
        let same = |x: &Option<Tensor>| x.as_ref().map(Tensor::shallow_clone);
        Self {
            context: conditions.context.shallow_clone(),
            text_embeds: same(&conditions.text_embeds),
            time_ids: same(&conditions.time_ids),
            class_labels: same(&conditions.class_labels),
            timestep_cond: same(&conditions.timestep_cond),
            channels: same(&conditions.channels),
        }
    }
}

impl Conditions {
    /// The same conditions on another device, so that no step has to move them. The class labels stay: they are checked
    /// on the CPU.
    pub fn to_device(&self, device: Device) -> Self {
        let moved = |x: &Option<Tensor>| x.as_ref().map(|x| x.to_device(device));
        Self {
            context: self.context.to_device(device),
            text_embeds: moved(&self.text_embeds),
            time_ids: moved(&self.time_ids),
            class_labels: self.class_labels.as_ref().map(Tensor::shallow_clone),
            timestep_cond: moved(&self.timestep_cond),
            channels: moved(&self.channels),
        }
    }

    /// Those of `count` rows of the batch, the first of which is `from`.
    pub(super) fn rows(&self, from: i64, count: i64) -> Self {
        let some = |x: &Option<Tensor>| x.as_ref().map(|x| x.narrow(0, from, count));
        Self {
            context: self.context.narrow(0, from, count),
            text_embeds: some(&self.text_embeds),
            time_ids: some(&self.time_ids),
            class_labels: some(&self.class_labels),
            timestep_cond: some(&self.timestep_cond),
            channels: some(&self.channels),
        }
    }

    /// The same conditions for a batch of `batch` rows: those with fewer rows are repeated, so that [B, ...]
    /// serves both halves [uncond, cond] of a guided prediction.
    ///
    /// # Errors
    /// A condition whose number of rows does not divide the batch.
    pub fn for_batch(&self, batch: i64) -> Result<Self> {
        let rows = |x: &Tensor| {
            let size = x.size();
            let times = size.first().filter(|&&rows| rows > 0 && batch % rows == 0);
            let expected = format!("a number of rows that divides the batch of {batch}");
            let times = times.ok_or_else(|| Error::shape("conditions", expected, &size))?;
            // The same tensor, whose keys and values the layers know already.
            if batch == *times {
                return Ok(x.shallow_clone());
            }
            let mut repeats = vec![1; size.len()];
            repeats[0] = batch / times;
            Ok::<_, Error>(x.repeat(repeats))
        };
        let each = |x: &Option<Tensor>| x.as_ref().map(rows).transpose();
        Ok(Self {
            context: rows(&self.context)?,
            text_embeds: each(&self.text_embeds)?,
            time_ids: each(&self.time_ids)?,
            class_labels: each(&self.class_labels)?,
            timestep_cond: each(&self.timestep_cond)?,
            channels: each(&self.channels)?,
        })
    }
}
