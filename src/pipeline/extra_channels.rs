//! Which pictures a family's U-Net takes as additional channels.

use super::StableDiffusion;

/// The additional channels in the input of a family's U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtraChannels {
    /// Nothing: an ordinary model.
    None,
    /// Inpainting: the mask, and the latents of the picture without what it covers.
    MaskedImage,
    /// Depth to image: the depth map.
    DepthMap,
    /// The x4 upscaler: the small picture, noised.
    LowResImage,
}

impl StableDiffusion {
    /// The additional channels of the U-Net's input; `None` for a number of channels that no family has.
    pub fn extra_channels(&self) -> Option<ExtraChannels> {
        let (latents, all) = (self.vae.config().latent_channels, self.unet.config().in_channels);
        let families = [
            (0, ExtraChannels::None),
            (latents + 1, ExtraChannels::MaskedImage),
            (1, ExtraChannels::DepthMap),
            (self.vae.config().out_channels, ExtraChannels::LowResImage),
        ];
        families.into_iter().find(|(more, _)| latents + more == all).map(|(_, extra)| extra)
    }
}
