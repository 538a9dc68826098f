//! Pictures that go in against diffusers' `load_image` and image processors: alpha, colours, palettes, bits.

mod golden;

use std::collections::BTreeSet;

use diffuscope::{Result, picture};
use tch::Kind;

#[test]
fn every_kind_of_picture_is_what_diffusers_makes_of_it() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let numbers = golden::open("pictures");
    let kinds: BTreeSet<&str> = numbers.names().filter_map(|name| name.split('/').next()).collect();
    let mut worst = 0f64;
    for kind in kinds {
        let number = |what: &str| numbers.tensor(&format!("{kind}/{what}")).unwrap();
        std::fs::write(&path, Vec::<u8>::try_from(number("file")).unwrap()).unwrap();
        let got = picture::read(&path, 8, 16)?;
        // In 8 bits, one of which is rounding: of Pillow's fixed point, and of decoders.
        let apart = (got - number("picture")).abs().max().double_value(&[]) / 2. * 255.;
        assert!(apart <= 1.5, "{kind}: {apart} of 255 apart");
        worst = worst.max(apart);
        let grey = picture::read_mask(&path, 8, 16)?;
        let differ = grey.ge(0.5).to_kind(Kind::Float).ne_tensor(&number("mask"));
        // Where the two greys lie on both sides of the middle.
        let near = (&grey - 0.5).abs().le(1.5 / 255.);
        let far = differ.logical_and(&near.logical_not()).any().int64_value(&[]);
        assert_eq!(far, 0, "{kind}: the mask differs");
    }
    println!("pictures: at most {worst:.1} of 255 apart");
    Ok(())
}
