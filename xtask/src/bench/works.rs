//! What is measured, and who is asked to do it.

use super::peers::Peer;

/// A model: the embedded one, or one with random weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    Tiny,
    Sd15,
    Sdxl,
}

impl Model {
    /// Its name, by which its folder and its maker know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Sd15 => "sd15",
            Self::Sdxl => "sdxl",
        }
    }
}

/// Somebody who does a work, under the name that the report gives to it.
#[derive(Clone, PartialEq, Debug)]
pub struct Side {
    pub name: String,
    pub peer: Peer,
    /// How it does the work, where there are several ways.
    pub variant: &'static str,
}

/// One thing that is measured.
#[derive(Clone, Debug)]
pub struct Work {
    pub name: String,
    /// The sentence that explains its seconds.
    pub what: &'static str,
    /// What the contestants are asked to do.
    pub task: &'static str,
    pub model: Model,
    pub batch: i64,
    /// The side of the latents.
    pub side: i64,
    pub steps: usize,
    /// The first one is ours, and what the others are compared with.
    pub sides: Vec<Side>,
    /// The memory that a process needs which holds the weights in f32, in GB.
    pub gigabytes: f64,
    /// The dtype, where a work is of one alone.
    pub dtype: Option<&'static str>,
    /// The name of a curve and where on it this is.
    pub curve: Option<(&'static str, i64)>,
    /// Whether it belongs to the quick form.
    pub quick: bool,
}

const NETWORK_PEERS: [Peer; 7] = [
    Peer::Plain,
    Peer::Diffusers,
    Peer::Compile,
    Peer::OpenVino,
    Peer::OnnxRuntime,
    Peer::Candle,
    Peer::StableDiffusionCpp,
];
const MODEL_PEERS: [Peer; 5] =
    [Peer::Plain, Peer::Diffusers, Peer::Compile, Peer::OpenVino, Peer::OnnxRuntime];
const WHOLE_PEERS: [Peer; 2] = [Peer::Plain, Peer::Diffusers];
const TRAINING_PEERS: [Peer; 3] = [Peer::Plain, Peer::Diffusers, Peer::Compile];

impl Work {
    fn new(
        name: impl Into<String>,
        task: &'static str,
        what: &'static str,
        peers: &[Peer],
    ) -> Self {
        let side = |peer: &Peer| Side { name: peer.name().into(), peer: *peer, variant: "" };
        Self {
            name: name.into(),
            what,
            task,
            model: Model::Tiny,
            batch: 1,
            side: 16,
            steps: 30,
            sides: [Peer::Ours].iter().chain(peers).map(side).collect(),
            gigabytes: 0.8,
            dtype: None,
            curve: None,
            quick: false,
        }
    }

    fn large(self, model: Model, batch: i64, side: i64, gigabytes: f64) -> Self {
        Self { model, batch, side, gigabytes, ..self }
    }

    fn batch(self, batch: i64) -> Self {
        Self { batch, ..self }
    }

    fn quick(self) -> Self {
        Self { quick: true, ..self }
    }

    /// Ours in one way, and beside it in another, and diffusers in the first.
    fn ways(
        self,
        ours: &'static str,
        other: &'static str,
        diffusers: Option<&'static str>,
    ) -> Self {
        let side = |name: &str, peer, variant| Side { name: name.into(), peer, variant };
        let mut sides = vec![side("diffuscope", Peer::Ours, ours)];
        sides.push(side("diffuscope, otherwise", Peer::Ours, other));
        sides.extend(diffusers.map(|variant| side("diffusers", Peer::Diffusers, variant)));
        Self { sides, ..self }
    }
}

/// All works, in the order in which they run.
pub fn all() -> Vec<Work> {
    let pass = "a pass of the U-Net";
    let mut all = vec![
        Work::new("step", "step", "a guided step of the embedded model", &MODEL_PEERS).quick(),
        Work::new(
            "first-step",
            "first-step",
            "from the prompt to the end of the first step",
            &WHOLE_PEERS,
        )
        .quick(),
        Work::new("generate-1", "generate", "a picture in 30 guided steps, decoded", &MODEL_PEERS)
            .quick(),
        Work::new("generate-8", "generate", "8 pictures at once", &MODEL_PEERS).batch(8),
        Work::new("generate-32", "generate", "32 pictures at once", &MODEL_PEERS).batch(32),
        Work::new("scale-1", "generate", "a picture at scale 1, against a guided one", &[]).ways(
            "scale-1",
            "",
            Some("scale-1"),
        ),
        Work::new("half-interval", "generate", "guided in half of the steps, against all", &[])
            .ways("half-interval", "", None),
        Work::new("sweep", "generate", "8 guidance scales in one call, against 8 calls", &[]).ways(
            "one-call",
            "single-runs",
            Some("single-runs"),
        ),
        Work::new(
            "train-unet",
            "train-unet",
            "a training step of the U-Net, batch 32",
            &TRAINING_PEERS,
        )
        .batch(32),
        Work::new(
            "train-vae",
            "train-vae",
            "a training step of the VAE, batch 16",
            &TRAINING_PEERS,
        )
        .batch(16),
        Work::new(
            "process",
            "process",
            "a picture by the command line, from start to end",
            &WHOLE_PEERS,
        ),
        Work {
            steps: 1,
            ..Work::new("process-1", "process", "the same with one step", &WHOLE_PEERS)
        },
        Work::new("unet-sd15", "unet", pass, &NETWORK_PEERS).large(Model::Sd15, 2, 64, 4.5),
        Work::new("unet-sdxl", "unet", pass, &NETWORK_PEERS).large(Model::Sdxl, 2, 128, 13.),
        Work::new("vae-encode", "vae-encode", "encoding 512×512 pixels", &NETWORK_PEERS).large(
            Model::Sd15,
            1,
            64,
            3.5,
        ),
        Work::new("vae-decode", "vae-decode", "decoding 512×512 pixels", &NETWORK_PEERS).large(
            Model::Sd15,
            1,
            64,
            3.5,
        ),
    ];
    for (dtype, name) in [("f32", "load-f16-to-f32"), ("bf16", "load-f16-to-bf16")] {
        let work = Work::new(name, "load", "opening the f16 folder of SD 1.5", &WHOLE_PEERS);
        all.push(Work { dtype: Some(dtype), ..work.large(Model::Sd15, 1, 64, 5.) });
    }
    let curve = |name: &'static str, at: i64, batch: i64, side: i64| Work {
        curve: Some((name, at)),
        ..Work::new(format!("curve-{name}-{at}"), "unet", pass, &[Peer::Plain, Peer::Diffusers])
            .large(Model::Tiny, batch, side, 1.5)
    };
    all.extend([8, 16, 32, 64].map(|side| curve("side", side, 2, side)));
    all.extend([1, 2, 4, 8, 16, 32].map(|batch| curve("batch", batch, batch, 16)));
    all
}

/// The works of these names, or all of the form that was asked for.
pub fn chosen(only: &[String], quick: bool) -> Result<Vec<Work>, String> {
    let all = all();
    let is = |work: &Work, name: &String| {
        work.name == *name || (name == "curves" && work.curve.is_some())
    };
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|work| is(work, name))) {
        let mut names: Vec<&str> =
            all.iter().filter(|work| work.curve.is_none()).map(|work| &*work.name).collect();
        names.push("curves");
        return Err(format!(
            "--only: there is no work `{unknown}`; there are {}",
            names.join(", ")
        ));
    }
    let wanted = |work: &Work| match only {
        [] => !quick || work.quick,
        names => names.iter().any(|name| is(work, name)),
    };
    Ok(all.into_iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_are_chosen_by_name() {
        let names = |only: &[&str], quick| -> Result<Vec<String>, String> {
            let only: Vec<String> = only.iter().map(ToString::to_string).collect();
            Ok(chosen(&only, quick)?.into_iter().map(|work| work.name).collect())
        };
        assert_eq!(names(&["step", "unet-sd15"], false).unwrap(), ["step", "unet-sd15"]);
        assert_eq!(names(&["curves"], false).unwrap().len(), 10);
        assert!(names(&[], true).unwrap().iter().all(|name| !name.contains("sd15")));
        let error = names(&["stop"], false).unwrap_err();
        assert!(
            error.contains("`stop`")
                && error.contains("step, first-step")
                && error.contains("curves")
        );
    }

    #[test]
    fn every_work_has_a_name_of_its_own_and_is_compared_with_ours() {
        let all = all();
        for (i, work) in all.iter().enumerate() {
            assert!(
                all[..i].iter().all(|other| other.name != work.name),
                "{} is there twice",
                work.name
            );
            assert_eq!(work.sides[0].peer, Peer::Ours);
            assert!(work.sides.len() > 1);
        }
    }
}
