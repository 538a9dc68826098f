//! Generations, traces and requests as their pictures.

use tch::Tensor;

use super::look::{Look, Looks, shows};
use super::table::Table;
use crate::Result;
use crate::figures::trace_strip;
use crate::models::vae::Posterior;
use crate::picture::Rgb8;
use crate::pipeline::{DepthMap, Generation, InitImage, LowResImage, Request, Trace};
use crate::plot::{latents, panel, picture, pictures};

shows!(Generation, Trace, Request, InitImage, LowResImage, DepthMap, Rgb8, Posterior);

impl Looks for Generation {
    fn look(&self) -> Result<Look> {
        let captions = &self.captions;
        let drawn = picture_or_sheet(&self.image, captions)?;
        let text = match captions.as_slice() {
            [] => format!("{self:?}"),
            captions => captions.join("\n"),
        };
        Ok(Look::picture(drawn, text).notes(&self.notes))
    }
}

impl Looks for Trace {
    fn look(&self) -> Result<Look> {
        if self.is_empty() {
            let drawn = picture_or_sheet(&self.image, &[])?;
            return Ok(Look::picture(drawn, format!("{self:?}")).notes(&self.notes));
        }
        Ok(Look::picture(trace_strip(self)?.png()?, format!("{self:?}")).notes(&self.notes))
    }
}

impl Looks for Request {
    fn look(&self) -> Result<Look> {
        let said = |text: &str| match text.trim() {
            "" => "(no text)".to_owned(),
            text => text.to_owned(),
        };
        let prompts: Vec<String> = self.prompts.iter().map(|prompt| said(prompt)).collect();
        let sampler = self.sampler.map_or("the checkpoint's".to_owned(), |s| s.to_string());
        let size = match (self.width, self.height) {
            (None, None) => "the model's".to_owned(),
            (width, height) => {
                let [width, height] = [width, height]
                    .map(|side| side.map_or("the model's".to_owned(), |side| side.to_string()));
                format!("{width} × {height} pixels")
            }
        };
        let seeds: Vec<String> = self.picture_seeds().iter().map(ToString::to_string).collect();
        let rows = [
            ("prompts", prompts.join("\n")),
            ("negative prompt", said(&self.negative_prompt)),
            ("sampler", sampler),
            ("steps", self.num_inference_steps.to_string()),
            ("guidance scale", self.guidance.scale.to_string()),
            ("seeds", seeds.join(", ")),
            ("size", size),
        ];
        let mut rows: Vec<_> = rows.map(|(name, value)| (name.to_owned(), value)).into();
        if let Some(init) = &self.init {
            let mask = if init.mask.is_some() { ", with a mask" } else { "" };
            let value = format!("{:?}, strength {}{mask}", init.image.size(), init.strength);
            rows.push(("picture to start from".to_owned(), value));
        }
        let caption = match self.prompts.len() {
            1 => "Request of 1 picture".to_owned(),
            count => format!("Request of {count} pictures"),
        };
        Ok(Look::table(&Table::settings(caption, rows)))
    }
}

impl Looks for InitImage {
    fn look(&self) -> Result<Look> {
        let mask = if self.mask.is_some() { ", with a mask" } else { "" };
        let caption = format!("strength {}{mask}", self.strength);
        let image = match &self.mask {
            // What is drawn anew is grey.
            Some(mask) => &self.image * mask.lt(0.5).to_kind(self.image.kind()),
            None => self.image.shallow_clone(),
        };
        Ok(Look::picture(picture_or_sheet(&image, &[])?, caption))
    }
}

impl Looks for LowResImage {
    fn look(&self) -> Result<Look> {
        let text = format!("picture to enlarge, noise level {}", self.noise_level);
        Ok(Look::picture(picture_or_sheet(&self.image, &[])?, text))
    }
}

impl Looks for DepthMap {
    fn look(&self) -> Result<Look> {
        let first = crate::device::in_f64_on_cpu(&self.0.get(0).get(0))?;
        let columns = first.size().last().copied().unwrap_or(1) as usize;
        let values = Vec::<f64>::try_from(first.flatten(0, -1))?;
        let chart = panel("depth: larger is nearer").heat_map(values, columns).draw()?;
        Ok(Look::picture(chart.png()?, format!("{self:?}")))
    }
}

impl Looks for Rgb8 {
    fn look(&self) -> Result<Look> {
        Ok(Look::picture(picture(&self.to_tensor()?)?.png()?, format!("{self:?}")))
    }
}

impl Looks for Posterior {
    fn look(&self) -> Result<Look> {
        let drawn = latents(&self.mean.get(0))?.title("mean of the latents, unscaled");
        Ok(Look::picture(drawn.png()?, format!("{self:?}")))
    }
}

/// One picture with its caption, several as a sheet.
fn picture_or_sheet(image: &Tensor, captions: &[String]) -> Result<Vec<u8>> {
    if image.size().first() == Some(&1) {
        let one = picture(image)?;
        return captions.first().map_or(one.clone(), |caption| one.caption(caption)).png();
    }
    let sheet = pictures(image)?;
    match captions.len() as i64 == image.size()[0] {
        true => sheet.captions(captions)?.png(),
        false => sheet.png(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::StableDiffusion;

    fn text(look: &Look) -> String {
        let block = look.block();
        block.split("text/plain\n").nth(1).unwrap().replace("\nEVCXR_END_CONTENT\n", "")
    }

    #[test]
    fn a_generation_shows_its_pictures_and_its_notes() -> Result<()> {
        let sd = StableDiffusion::tiny()?;
        let few = |request: Request| Request { num_inference_steps: 2, ..request };
        let known = sd.generate(&few(Request::new("a red apple")))?.look()?;
        assert!(known.block().starts_with("EVCXR_BEGIN_CONTENT image/png\n"));
        assert_eq!(text(&known), "a red apple, seed 0");
        let unknown = sd.generate(&few(Request::batch(["a dog", "a <moon>"])))?;
        let look = unknown.look()?;
        assert!(
            look.block().starts_with("EVCXR_BEGIN_CONTENT text/html\n<img src=\"data:image/png")
        );
        assert!(look.block().contains("<p>Note: the model was not taught: "));
        let said = text(&look);
        assert!(said.starts_with("a dog, seed 0\na <moon>, seed 1\nNote: the model"), "{said}");
        let one = |_| std::ops::ControlFlow::Break(());
        let stopped = sd.generate_with(&few(Request::new("a red apple")), one)?;
        assert!(text(&stopped.look()?).contains("\nNote: stopped after 1 of 2 steps: "));
        Ok(())
    }

    #[test]
    fn a_trace_shows_its_steps_and_one_without_steps_its_picture() -> Result<()> {
        let sd = StableDiffusion::tiny()?;
        let request = Request { num_inference_steps: 2, ..Request::new("a red apple") };
        let trace = sd.trace(&request)?;
        assert!(trace.look()?.block().starts_with("EVCXR_BEGIN_CONTENT image/png\n"));
        let init = Some(InitImage::new(trace.image, 0.));
        let none = sd.trace(&Request { init, ..request.clone() })?;
        assert!(text(&none.look()?).contains("Note: no step is left to take"));
        assert!(
            text(&request.look()?).contains("seeds            0"),
            "{}",
            text(&request.look()?)
        );
        Ok(())
    }

    #[test]
    fn what_a_request_draws_from_is_shown() -> Result<()> {
        let image = Tensor::zeros([1, 3, 8, 8], tch::kind::FLOAT_CPU);
        let mask = Some(Tensor::ones([1, 1, 8, 8], tch::kind::FLOAT_CPU));
        let init = InitImage { mask, ..InitImage::new(image.shallow_clone(), 0.5) };
        let depth = DepthMap(Tensor::rand([1, 1, 8, 6], tch::kind::FLOAT_CPU));
        for look in [init.look()?, LowResImage::new(image).look()?, depth.look()?] {
            assert!(look.block().starts_with("EVCXR_BEGIN_CONTENT image/png\n"));
        }
        assert_eq!(text(&init.look()?), "strength 0.5, with a mask");
        Ok(())
    }
}
