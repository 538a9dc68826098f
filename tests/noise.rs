//! Seeds against torch.Generator("cpu").manual_seed(seed), bit by bit.

mod golden;

use diffuscope::Result;
use diffuscope::noise::{standard_normal, with_seed};
use tch::Tensor;

#[test]
fn draws_of_a_seed() -> Result<()> {
    let file = golden::open("noise");
    let mut draws: Vec<(i64, usize, Tensor)> = file
        .names()
        .map(|name| {
            let (seed, i) = name.split_once('/').unwrap();
            (seed.parse().unwrap(), i.parse().unwrap(), file.tensor(name).unwrap())
        })
        .collect();
    draws.sort_by_key(|(seed, i, _)| (*seed, *i));
    for one in draws.chunk_by(|a, b| a.0 == b.0) {
        let seed = one[0].0;
        assert!(standard_normal(&one[0].2.size(), seed)?.equal(&one[0].2), "seed {seed}");
        let all = with_seed(seed, || {
            one.iter()
                .map(|(_, _, x)| Tensor::randn(x.size(), tch::kind::FLOAT_CPU))
                .collect::<Vec<_>>()
        });
        for ((_, i, expected), got) in one.iter().zip(&all) {
            assert!(got.equal(expected), "seed {seed}, draw {i} {:?}", expected.size());
        }
    }
    println!("{} draws are equal", draws.len());
    Ok(())
}
