//! Guidance beyond the plain rule against diffusers.

mod golden;

use diffuscope::Result;
use diffuscope::guidance::{Projection, guide, guide_projected, rescale};
use golden::Worst;
use tch::Tensor;

#[test]
fn rescaled_and_projected_as_diffusers() -> Result<()> {
    let file = golden::open("guidance");
    let (uncond, cond) = (file.tensor("uncond")?, file.tensor("cond")?);
    let mut worst = Worst::within(1e-12);
    for name in file.names().filter(|name| name.contains('/')) {
        let numbers: Vec<f64> = name.split('/').skip(1).map(|n| n.parse().unwrap()).collect();
        let got = match numbers[..] {
            [phi] => rescale(&guide(&uncond.get(0), &cond.get(0), 7.5)?, &cond.get(0), phi)?,
            [scale, eta, norm_threshold, momentum] => {
                let rule = Projection { eta, norm_threshold, momentum };
                let (first, before) =
                    guide_projected(&uncond.get(0), &cond.get(0), scale, &rule, None)?;
                let (second, _) =
                    guide_projected(&uncond.get(1), &cond.get(1), scale, &rule, Some(&before))?;
                Tensor::stack(&[first, second], 0)
            }
            _ => panic!("{name}"),
        };
        worst.compare(name, &got, &file.tensor(name)?);
    }
    worst.finish("guidance");
    Ok(())
}
