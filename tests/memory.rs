//! Asking for absurdly much memory is an error that says what to try, and the program goes on.

mod golden;

use diffuscope::forward::add_noise;
use diffuscope::noise::standard_normal;
use diffuscope::pipeline::{Request, StableDiffusion};
use diffuscope::schedule::Schedule;
use diffuscope::{Error, Result};
use tch::{Device, Kind, Tensor};

/// As large as that, in no memory at all.
fn expanded(shape: &[i64]) -> Tensor {
    let ones = vec![1; shape.len()];
    Tensor::ones(&ones[..], tch::kind::FLOAT_CPU).expand(shape, false)
}

fn said<T>(result: Result<T>) -> String {
    match result {
        Err(error @ Error::Memory { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("there was enough memory"),
    }
}

#[test]
fn a_model_that_runs_out_of_memory_says_what_to_try_and_draws_on() -> Result<()> {
    let model = StableDiffusion::open(golden::path("pipeline/sd1"), Kind::Float, Device::Cpu)?;
    let small =
        Request { num_inference_steps: 2, width: Some(16), height: Some(16), ..Request::new("a") };
    let before = model.generate(&small)?;

    let latents = expanded(&[1 << 40, 4, 8, 8]);
    let words = said(model.decode(&latents));
    assert!(words.starts_with("out of memory: vae on cpu asked for"), "{words}");
    for way in ["fewer or smaller pictures", "--dtype", "--tile"] {
        assert!(words.contains(way), "{words}");
    }
    assert!(!words.contains("--offload"), "of no use on a CPU: {words}");
    let words = said(tch::no_grad(|| model.vae.decode(&latents)));
    assert!(
        words.contains("decoding 1099511627776 of 32×32 pixels in Float on cpu asked"),
        "{words}"
    );
    let words = said(tch::no_grad(|| model.vae.encode(&expanded(&[1 << 40, 3, 8, 8]))));
    assert!(words.contains("encoding 1099511627776 of 8×8 pixels"), "{words}");
    let width = model.unet.config().cross_attention_dim;
    let context = expanded(&[1 << 40, 7, width]);
    let words = said(tch::no_grad(|| model.unet.forward(&latents, 5, &context)));
    assert!(words.contains("the U-Net, for samples of [1099511627776, 4, 8, 8] in Float on cpu,"));

    let after = model.generate(&small)?;
    assert!(before.image.equal(&after.image), "the model draws as before");
    let x = Tensor::ones([2], tch::kind::FLOAT_CPU).set_requires_grad(true);
    assert!((&x * 2.).requires_grad(), "gradients are recorded as before");
    Ok(())
}

#[test]
fn what_is_drawn_or_noised_says_it_too() -> Result<()> {
    // Refused before it is drawn, where the system says what is free; a shape that nothing holds, everywhere.
    for shape in [1 << 46, 1 << 62] {
        let words = standard_normal(&[shape], 0).unwrap_err().to_string();
        assert!(words.contains("memory") && !words.contains("frame"), "{words}");
    }
    let x = expanded(&[1 << 40, 8, 8]);
    let words = said(add_noise(&Schedule::stable_diffusion(), 5, &x, &x));
    assert!(words.contains("adding noise to samples of [1099511627776, 8, 8]"), "{words}");
    Ok(())
}

/// A batch with more pixels than are decoded at once gives what its pictures give alone.
#[test]
fn a_large_batch_in_slices_has_the_same_numbers() -> Result<()> {
    let model = StableDiffusion::open(golden::path("pipeline/sd1"), Kind::Float, Device::Cpu)?;
    let factor = model.vae.config().factor();
    let latents = standard_normal(&[5, 4, 512 / factor, 512 / factor], 3)?;
    let together = model.decode(&latents)?;
    assert_eq!(together.size(), [5, 3, 512, 512]);
    for (from, count) in [(0, 4), (4, 1)] {
        let some = model.decode(&latents.narrow(0, from, count))?;
        assert!(together.narrow(0, from, count).equal(&some), "{count} from {from}");
    }
    Ok(())
}
