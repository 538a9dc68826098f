//! Where the picture looks in the text.

use tch::{Kind, Tensor};

use crate::models::unet::AttentionMap;
use crate::{Error, Result};

/// How much every cell attends to every token, over all heads and layers of one pass.
///
/// ```text
/// map[token, cell] = mean over layers and heads of softmax(q k^T / sqrt(d))[cell, token]
/// ```
/// Tang et al. 2023, "What the DAAM", without its sum over steps. The maps of each layer are enlarged to `cells` first, by
/// interpolation between the centres of its own. The tokens of a cell sum to 1.
///
/// # Shapes
/// Maps of attention to one text; `cells` height and width; returns [B, tokens, h, w] in f32 on the CPU.
/// # Errors
/// No map of attention to a text; maps of different texts.
pub fn token_maps(maps: &[AttentionMap], cells: (i64, i64)) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    let cross: Vec<&AttentionMap> = maps.iter().filter(|map| map.cross).collect();
    for map in &cross {
        let weights = map.weights.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?;
        let mean = weights.f_mean_dim(&[1i64][..], false, Kind::Float)?;
        let [batch, _, tokens] = mean.size()[..] else {
            return Err(Error::shape(&map.layer, "[B, heads, cells, tokens]", &weights.size()));
        };
        let (h, w) = map.cells;
        let plane = mean.f_transpose(1, 2)?.f_reshape([batch, tokens, h, w])?;
        let plane = plane.f_upsample_bilinear2d([cells.0, cells.1], false, None, None)?;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&plane)?,
            None => plane,
        });
    }
    let sum = sum.ok_or_else(|| Error::argument("attention maps", "some of a text", "none"))?;
    Ok(sum / cross.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(cells: (i64, i64), cross: bool) -> AttentionMap {
        let keys = if cross { 5 } else { cells.0 * cells.1 };
        let weights = Tensor::rand([2, 3, cells.0 * cells.1, keys], tch::kind::FLOAT_CPU);
        AttentionMap { layer: "a".into(), weights: weights.softmax(-1, Kind::Float), cells, cross }
    }

    #[test]
    fn tokens_of_a_cell_sum_to_one_at_any_size() -> Result<()> {
        let maps = [map((4, 4), true), map((2, 2), true), map((4, 4), false)];
        let got = token_maps(&maps, (8, 8))?;
        assert_eq!(got.size(), [2, 5, 8, 8]);
        let sums = got.sum_dim_intlist(1, false, Kind::Float);
        assert!((sums - 1.).abs().max().double_value(&[]) < 1e-5);
        let own = token_maps(&maps[..1], (4, 4))?;
        let expected = maps[0].weights.mean_dim(1, false, Kind::Float).transpose(1, 2);
        assert!((own.flatten(2, 3) - expected).abs().max().double_value(&[]) < 1e-6);
        assert!(token_maps(&maps[2..], (4, 4)).is_err());
        assert!(
            token_maps(
                &[
                    map((2, 2), true),
                    AttentionMap { weights: maps[0].weights.narrow(3, 0, 4), ..map((4, 4), true) }
                ],
                (4, 4)
            )
            .is_err()
        );
        Ok(())
    }
}
