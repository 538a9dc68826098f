"""Holds the program against diffusers, end to end.

    pip install -r tests/golden/requirements.txt
    cargo build --features cli
    python tests/reference.py                     the embedded model, and five random ones
    python tests/reference.py --seed 7 --count 20 --no-tiny
    python tests/reference.py --families --seed 3 --count 10     random models of the other families
    python tests/reference.py --samplers > docs/samplers_embedded.md      every sampler with the embedded model

The embedded model: diffusers opens `data/tiny` unmodified; from the same initial latents, DDIM and
Euler, 30 steps, guidance 5, final latents within 1e-3 and pictures within 2/255 everywhere.

Random models: pipelines of varied configurations, drawn from the seed and saved by diffusers and
transformers; every tensor of the trace within 1e-3 of its largest magnitude, and within 1e-4 in the
first step. A loop around random weights can magnify rounding without bound, so diffusers also runs
from a start that differs by one part in ten million: where it drifts from itself by more than 3e-4,
only the first step is judged.

Families: SDXL, inpainting, depth to image, the x4 upscaler and LCM, each by its own pipeline from seeds and
pictures, 20 guided steps, two prompts; the final latents within 1e-3 of the largest magnitude.
"""

import argparse
import functools
import inspect
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "data" / "tokenizer"
# As the program names them, without what it does otherwise by default.
SAMPLERS = {
    "pndm-diffusers": PNDMScheduler,
    "ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "ddpm": DDPMScheduler, "lcm": LCMScheduler,
    "dpm++2m": DPMSolverMultistepScheduler, "heun": HeunDiscreteScheduler,
}

WITHOUT_RUNGE_KUTTA = {"pndm-diffusers": dict(skip_prk_steps=True)}

# As the two families publish them.
SD1_SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    set_alpha_to_one=False, steps_offset=1, skip_prk_steps=True,
)
SD2_SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    set_alpha_to_one=False, steps_offset=1, clip_sample=False, prediction_type="v_prediction",
)


def seeded(seed):
    return torch.Generator("cpu").manual_seed(seed)


def roughen(network, seed):
    """Random weights as torch starts with, but no norm is the identity and no bias is zero."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                scale = 0.5 if "embedding.weight" in name else 0.58 / math.sqrt(weight[0].numel())
                weight.copy_(noise * scale)
            else:
                is_norm = "norm" in name and name.endswith("weight")
                weight.copy_(0.1 * noise + (1 if is_norm else 0))
    return network.eval()


def text_encoder(seed, **config):
    config = dict(vocab_size=49408, projection_dim=config["hidden_size"]) | config
    return roughen(CLIPTextModel(CLIPTextConfig(**config)), seed)


def unet(seed, **config):
    return roughen(UNet2DConditionModel(**config), seed)


def vae(seed, levels, **config):
    config = dict(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels
    ) | config
    return roughen(AutoencoderKL(**config), seed)


def pipeline(text_encoder, unet, vae, tokenizer, scheduler):
    return StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )


def save(pipe, folder, dtype=torch.float32):
    """Saves the pipeline and opens what was saved, in f32."""
    pipe.to(dtype).save_pretrained(folder)
    return open_folder(folder)


def open_folder(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def trace(pipe, sampler, prompts, negative, **arguments):
    """What the program writes with --trace, from diffusers' own pipeline."""
    pipe.scheduler = SAMPLERS[sampler].from_config(pipe.scheduler.config)
    outputs, steps = [], []
    forward, step = pipe.unet.forward, pipe.scheduler.step

    @functools.wraps(forward)
    def recording_forward(*args, **kwargs):
        result = forward(*args, **kwargs)
        outputs.append(result[0])
        return result

    @functools.wraps(step)
    def recording_step(noise_pred, t, sample, *args, **kwargs):
        result = step(noise_pred, t, sample, *args, **kwargs)
        steps.append((t, sample, noise_pred, result[1]))
        return result

    pipe.unet.forward, pipe.scheduler.step = recording_forward, recording_step
    try:
        latents = pipe(
            prompts, negative_prompt=[negative] * len(prompts), output_type="latent", **arguments
        ).images
    finally:
        pipe.unet.forward, pipe.scheduler.step = forward, step
    uncond, cond = torch.stack(outputs).chunk(2, dim=1)
    timesteps, x_t, noise_pred, x_0 = (torch.stack(list(map(torch.as_tensor, part))) for part in zip(*steps))
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return dict(
        timesteps=timesteps.float(), x_t=x_t, output_uncond=uncond.contiguous(), output_cond=cond.contiguous(),
        output=noise_pred, x_0=x_0, latents=latents, image=image,
    )


def run_program(program, model, sampler, prompts, negative, latents, folder, num_inference_steps, guidance_scale):
    """The program's trace of the same run."""
    start, out = folder / "start.safetensors", folder / "trace.safetensors"
    save_file({"latents": latents.contiguous()}, start)
    out.unlink(missing_ok=True)
    factor = 2 ** (len(model.vae.config.block_out_channels) - 1)
    height, width = (side * factor for side in latents.shape[-2:])
    command = [
        program, "generate", *prompts, "--negative", negative, "--model", model.folder, "--sampler", sampler,
        "--steps", num_inference_steps, "--guidance", guidance_scale, "--height", height, "--width", width,
        "--initial-latents", start, "--trace", out, "--out", folder / "pictures",
        "--device", "cpu", "--dtype", "f32",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return load_file(out)


def differences(got, expected):
    """The largest difference of every tensor, as a share of the tensor's largest magnitude."""
    gaps = {}
    for name, tensor in expected.items():
        if got[name].shape != tensor.shape:
            sys.exit(f"{name} is {list(got[name].shape)} and should be {list(tensor.shape)}")
        gap = (got[name].double() - tensor.double()).abs().max() / tensor.double().abs().max()
        gaps[name] = gap.item()
    return gaps


def compare_embedded(program, folder, work):
    pipe = open_folder(folder)
    pipe.folder = folder
    prompts = ["a red apple on the beach, flat", "a cat left of a blue star, 3d", "two lemons at night, cartoon"]
    size = pipe.unet.config.sample_size
    latents = torch.randn((3, 4, size, size), generator=seeded(0))
    settings = dict(num_inference_steps=30, guidance_scale=5.0)
    print("model       sampler  final latents (1e-3)  picture (2/255)")
    fine = True
    for sampler in ["ddim", "euler"]:
        expected = trace(pipe, sampler, prompts, "", latents=latents, **settings)
        got = run_program(program, pipe, sampler, prompts, "", latents, work, **settings)
        of_latents = (got["latents"] - expected["latents"]).abs().max().item()
        bytes_of = lambda image: (image.clamp(-1, 1) + 1) * 127.5
        of_image = (bytes_of(got["image"]) - bytes_of(expected["image"])).abs().max().item()
        good = of_latents < 1e-3 and of_image < 2
        fine &= good
        print(f"{folder.name:10}  {sampler:7}  {of_latents:20.1e}  {of_image:11.4f}/255  {'' if good else 'WRONG'}")
    return fine


PROMPTS = ["a cat", "Two RED foxes!", "", "snow, at night, 8k", "caf\u00e9 \U0001f431 " * 30]


def random_pipeline(seed):
    """A pipeline whose family, widths, depths, head counts and sizes the seed decides."""
    dice = random.Random(seed)
    second = dice.random() < 0.5
    cross = dice.choice([24, 32, 48, 64])
    text = text_encoder(
        seed,
        hidden_size=cross,
        intermediate_size=cross * dice.choice([2, 4]),
        num_hidden_layers=dice.choice([1, 2, 3]),
        num_attention_heads=dice.choice([2, 4]),
        hidden_act="gelu" if second else "quick_gelu",
    )
    levels = dice.choice([2, 3, 4])
    groups = dice.choice([4, 8])
    widths = sorted(groups * dice.choice([2, 3, 4]) for _ in range(levels))
    attends = [dice.random() < 0.6 for _ in range(levels)]
    divisors = lambda number: [h for h in [1, 2, 4, 8] if number % h == 0]
    heads = [dice.choice(divisors(width)) for width in widths] if second else dice.choice(divisors(groups))
    network = unet(
        seed + 1,
        sample_size=8,
        block_out_channels=widths,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        layers_per_block=dice.choice([1, 2]),
        norm_num_groups=groups,
        cross_attention_dim=cross,
        attention_head_dim=heads,
        use_linear_projection=second,
        upcast_attention=second and dice.random() < 0.5,
    )
    vae_levels = dice.choice([1, 2, 3, 4])
    autoencoder = vae(
        seed + 2,
        vae_levels,
        block_out_channels=sorted(groups * dice.choice([2, 3, 4]) for _ in range(vae_levels)),
        layers_per_block=dice.choice([1, 2]),
        norm_num_groups=groups,
        latent_channels=4,
        sample_size=64,
        scaling_factor=dice.choice([0.18215, 0.5, 1.1]),
    )
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, **(dict(pad_token="!") if second else {}))
    scheduler = DDIMScheduler(**SD2_SCHEDULER) if second else PNDMScheduler(**SD1_SCHEDULER)
    pipe = pipeline(text, network, autoencoder, tokenizer, scheduler)
    dtype = dice.choice([torch.float32, torch.float16])
    smallest = 2 ** (levels - 1)
    # A norm over two numbers is a sign: the lowest level keeps 3 cells a side, a group 2 channels.
    size = [smallest * dice.choice([3, 4, 5]) + dice.choice([0, 0, 1]) for _ in range(2)]
    run = dict(
        sampler=dice.choice(["ddim", "euler"]),
        prompts=dice.sample(PROMPTS, dice.choice([1, 2, 3])),
        negative=dice.choice(["", "blurry, ugly"]),
        num_inference_steps=dice.choice([4, 7, 12]),
        guidance_scale=dice.choice([1.5, 5.0, 9.0]),
    )
    run["latents"] = torch.randn((len(run["prompts"]), 4, *size), generator=seeded(seed))
    attention = "".join("x" if a else "-" for a in attends)
    name = f"SD {2 if second else 1}, unet {widths} {attention} heads {heads}, text {cross}, vae {vae_levels} levels"
    return pipe, dtype, run, name


def compare_random(program, seed, work):
    pipe, dtype, run, name = random_pipeline(seed)
    folder = work / f"random{seed}"
    pipe = save(pipe, folder, dtype)
    pipe.folder = folder
    expected = trace(pipe, **run)
    got = run_program(program, pipe, folder=work, **run)
    gaps = differences(got, expected)
    nudge = 1 + 1e-7 * torch.randn(run["latents"].shape, generator=seeded(0))
    drift = differences(trace(pipe, **run | {"latents": run["latents"] * nudge}), expected)
    first = {name: tensor[0] for name, tensor in expected.items() if name not in ["latents", "image"]}
    first_gap = max(differences({name: got[name][0] for name in first}, first).values())
    own = max(drift.values())
    good = first_gap <= 1e-4 and (max(gaps.values()) <= 1e-3 or own > 3e-4)
    verdict = "WRONG" if not good else "equal in the first step" if own > 3e-4 else "equal"
    settings = f"{run['sampler']}, {run['num_inference_steps']} steps, latents {list(run['latents'].shape)}"
    print(f"\n{seed}: {name}, {str(dtype)[6:]}, {settings}")
    print("   " + "  ".join(f"{key} {gap:.0e}" for key, gap in gaps.items()))
    print(f"   first step {first_gap:.0e}, diffusers' own drift {own:.0e}: {verdict}", flush=True)
    return good


def random_family(seed):
    """A model of a family that is not plain text to image, saved by its own pipeline: its name, the pipeline, and
    which of the pictures it draws from."""
    dice = random.Random(seed)
    family = dice.choice(["sdxl", "inpainting", "depth", "upscaler", "lcm", "masked", "picture"])
    divisors = lambda number: [h for h in [1, 2, 4] if number % h == 0]
    groups = dice.choice([4, 8])
    levels = dice.choice([2, 3])
    widths = sorted(groups * dice.choice([2, 3, 4]) for _ in range(levels))
    attends = [True] + [dice.random() < 0.6 for _ in range(levels - 1)]
    dice.shuffle(attends)
    text_width = dice.choice([24, 32, 48])
    size = dict(
        intermediate_size=text_width * 2, num_hidden_layers=dice.choice([2, 3]), num_attention_heads=4,
        hidden_act=dice.choice(["gelu", "quick_gelu"]),
    )
    text = text_encoder(seed, hidden_size=text_width, **size)
    config = dict(
        sample_size=8,
        block_out_channels=widths,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        layers_per_block=dice.choice([1, 2]),
        norm_num_groups=groups,
        cross_attention_dim=text_width,
        attention_head_dim=[dice.choice(divisors(width)) for width in widths],
        use_linear_projection=dice.random() < 0.5,
    )
    parts = {}
    if family == "sdxl":
        wide, pooled, each = dice.choice([24, 40]), dice.choice([12, 20]), dice.choice([4, 8])
        config |= dict(
            cross_attention_dim=text_width + wide, addition_embed_type="text_time", addition_time_embed_dim=each,
            projection_class_embeddings_input_dim=pooled + 6 * each,
            transformer_layers_per_block=[dice.choice([1, 2]) for _ in widths],
        )
        second = CLIPTextConfig(vocab_size=49408, hidden_size=wide, projection_dim=pooled, **size | dict(hidden_act="gelu"))
        parts["text_encoder_2"] = roughen(CLIPTextModelWithProjection(second), seed + 3)
        parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!")
    config |= dict(
        inpainting=dict(in_channels=9), depth=dict(in_channels=5), lcm=dict(time_cond_proj_dim=dice.choice([6, 16])),
        upscaler=dict(in_channels=7, num_class_embeds=400),
    ).get(family, {})
    if family == "upscaler":
        config["only_cross_attention"] = [dice.random() < 0.5 for _ in widths]
    vae_levels = 3 if family == "upscaler" else dice.choice([2, 3, 4])
    autoencoder = vae(
        seed + 2, vae_levels, block_out_channels=sorted(groups * dice.choice([2, 3]) for _ in range(vae_levels)),
        norm_num_groups=groups, latent_channels=4, sample_size=64, scaling_factor=dice.choice([0.18215, 0.08333, 0.5]),
    )
    prediction = dice.choice(["epsilon", "v_prediction"])
    scheduler = DDIMScheduler(**SD2_SCHEDULER | dict(prediction_type=prediction))
    parts |= dict(
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER), text_encoder=text, unet=unet(seed + 1, **config),
        vae=autoencoder, scheduler=scheduler,
    )
    none = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    make = dict(
        sdxl=lambda: StableDiffusionXLPipeline(**parts, add_watermarker=False),
        inpainting=lambda: StableDiffusionInpaintPipeline(**parts, **none),
        depth=lambda: StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None, feature_extractor=None),
        upscaler=lambda: StableDiffusionUpscalePipeline(
            **parts, low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear"), safety_checker=None,
            feature_extractor=None,
        ),
        lcm=lambda: LatentConsistencyModelPipeline(**parts, **none),
        masked=lambda: StableDiffusionInpaintPipeline(**parts, **none),
        picture=lambda: StableDiffusionImg2ImgPipeline(**parts, **none),
    )[family]
    factor = 2 ** (vae_levels - 1)
    smallest = 2 ** (levels - 1)
    # Every pipeline takes multiples of 8; the upscaler's rounds its small picture to multiples of 4.
    whole = 16 if family == "upscaler" else 8
    height, width = (-(-smallest * dice.choice([3, 4, 5]) * factor // whole) * whole for _ in range(2))
    sampler = "lcm" if family == "lcm" else dice.choice(["ddim", "euler", "dpm++2m", "heun"])
    run = dict(
        sampler=sampler, height=height, width=width, strength=dice.choice([0.5, 0.8, 1.0]),
        negative="" if family == "lcm" else dice.choice(["", "blurry, ugly"]), guidance_scale=dice.choice([1.5, 5.0, 9.0]),
        prompts=dice.sample(PROMPTS, 2), noise_level=dice.choice([0, 20, 250]),
    )
    if family == "picture" or sampler == "heun":
        run["strength"] = dice.choice([0.5, 0.8])
    if family == "picture" and dice.random() < 0.4:
        run["sampler"] = "pndm-diffusers"
    name = f"{family}, unet {widths} {prediction}, vae {vae_levels} levels, {run['sampler']}, strength {run['strength']}"
    return family, make(), run, factor, name


def compare_family(program, seed, work):
    family, pipe, run, factor, name = random_family(seed)
    folder = work / f"family{seed}"
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    height, width = run["height"], run["width"]
    noise = np.random.default_rng(seed)
    small = (height // factor, width // factor) if family == "upscaler" else (height, width)
    picture = Image.fromarray(noise.integers(0, 256, (*small, 3), dtype=np.uint8))
    mask = Image.fromarray((noise.random((height, width)) > 0.4).astype(np.uint8) * 255)
    depth = Image.fromarray(noise.integers(0, 256, (height, width), dtype=np.uint8))
    for what, image in dict(picture=picture, mask=mask, depth=depth).items():
        image.save(folder / f"{what}.png")

    # No negative prompt is not the same to SDXL as an empty one.
    negative = dict(negative_prompt=[run["negative"]] * 2) if run["negative"] else {}
    both = lambda x: [x] * 2
    tensor = lambda image: torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    arguments = dict(prompt=run["prompts"], num_inference_steps=20, guidance_scale=run["guidance_scale"], **negative)
    size, part = dict(height=height, width=width), dict(strength=run["strength"])
    # What the folder says counts, not what of it is a default of diffusers' class.
    config = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").config
    pipe.scheduler = SAMPLERS[run["sampler"]].from_config(config, **WITHOUT_RUNGE_KUTTA.get(run["sampler"], {}))
    arguments |= dict(
        sdxl=size, lcm=size, upscaler=dict(image=both(picture), noise_level=run["noise_level"]),
        inpainting=dict(image=both(picture), mask_image=both(mask), **size, **part),
        masked=dict(image=both(picture), mask_image=both(mask), **size, **part),
        depth=dict(image=both(picture), depth_map=tensor(depth).expand(2, -1, -1), **part),
        picture=dict(image=both(picture), **part),
    )[family]

    def latents(nudge=0.0):
        """`nudge`: how far all noise is off, to see how far rounding grows."""
        draw = diffusers.utils.torch_utils.randn_tensor
        generators = [seeded(seed), seeded(seed + 1)]
        with torch.no_grad(), patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean):
            module = sys.modules[type(pipe).__module__]
            with patch.object(module, "randn_tensor", lambda *a, **k: draw(*a, **k) * (1 + nudge)):
                return pipe(**arguments, generator=generators, output_type="latent")[0]

    expected = latents()
    out = folder / "trace.safetensors"
    command = [
        program, "generate", *run["prompts"], "--negative", run["negative"], "--model", folder, "--sampler", run["sampler"],
        "--steps", 20, "--guidance", run["guidance_scale"], "--seed", seed, "--trace", out, "--out", folder / "drawn",
        "--device", "cpu",
    ]
    sized = ["--height", height, "--width", width]
    of_picture = ["--init", folder / "picture.png", "--strength", run["strength"], *sized]
    command += dict(
        sdxl=sized, lcm=sized, upscaler=["--small", folder / "picture.png", "--noise-level", run["noise_level"]],
        inpainting=[*of_picture, "--mask", folder / "mask.png"], masked=[*of_picture, "--mask", folder / "mask.png"],
        depth=[*of_picture, "--depth", folder / "depth.png"], picture=of_picture,
    )[family]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(map(str, command))}\n{done.stderr}")
        return False
    gap = differences(load_file(out), {"latents": expected})["latents"]
    own = differences({"latents": latents(1e-7)}, {"latents": expected})["latents"]
    good = gap <= 1e-3 or own > 3e-4
    verdict = "WRONG" if not good else "not to be told: diffusers drifts" if gap > 1e-3 else "equal"
    print(f"{seed}: {name}: {gap:.0e}, diffusers' own drift {own:.0e}: {verdict}", flush=True)
    return good


# diffusers' class and options, by the program's name. Missing: samplers that diffusers does not have, and dpm++sde,
# whose noise diffusers takes from another library.
CLASSES = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", dict(skip_prk_steps=True)),
    "pndm-rk": ("PNDMScheduler", dict(skip_prk_steps=False)),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2-a": ("KDPM2AncestralDiscreteScheduler", {}),
    **{
        f"dpm++{order}{letter}{'-sde' if sde else ''}": (
            f"DPMSolver{kind}Scheduler",
            dict(solver_order=order, algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++"),
        )
        for letter, kind in [("s", "Singlestep"), ("m", "Multistep")]
        for order in [1, 2, 3]
        for sde in ([False] if letter == "s" and order != 2 else [False, True])
    },
    "unipc": ("UniPCMultistepScheduler", dict(solver_order=2)),
    "unipc3": ("UniPCMultistepScheduler", dict(solver_order=3)),
    "deis": ("DEISMultistepScheduler", dict(solver_order=2)),
}
SIGMAS = ["own", "karras", "exponential", "beta"]
SAMPLERS_PAGE = """\
# Every sampler with the embedded model

The largest difference of any element of the final latents from diffusers' (standard deviation about 1): {what}. In
brackets: how far diffusers ends from itself when its start is off by one part in ten million. A dot: the class has no
such option.

The model depends on the timestep that it is told, so one thing shows here that does not show in
[samplers.md](samplers.md): with exponential and beta sigmas, DPM-Solver, UniPC and DEIS of diffusers compute the
timestep of a sigma in f32 and cut off its fraction, and tell the network 998 for the first sigma, which is that of
999. Here it is told 999. Where that is so, a cell has the difference as it is and, after the arrow, the difference
from diffusers when it is made to tell 999. Beta sigmas are far apart at both ends, where methods of higher order
extrapolate: they magnify every difference, as the brackets show.

Written by `python tests/reference.py --samplers > docs/samplers_embedded.md`.

| sampler | own sigmas | karras | exponential | beta |
|---|---|---|---|---|
{lines}
"""


def compare_sampler(program, pipe, config, name, sigmas, work):
    """A cell of the page."""
    kind, options = CLASSES[name]
    kind = getattr(diffusers, kind)
    if sigmas != "own":
        option = f"use_{sigmas}_sigmas"
        if option not in inspect.signature(kind.__init__).parameters:
            return "·"
        options = options | {option: True}
    pipe.scheduler = kind.from_config(config, **options)
    prompt, steps, scale, seed, size = "a red apple on the beach, flat", 10, 5.0, 7, pipe.unet.config.sample_size

    set_timesteps, first = pipe.scheduler.set_timesteps, []

    def set_and_correct(*args, correct, **kwargs):
        set_timesteps(*args, **kwargs)
        first.append(pipe.scheduler.timesteps[0].item())
        if correct:
            pipe.scheduler.timesteps[0] = 999

    @torch.no_grad()
    def latents(nudge=0.0, correct=False):
        pipe.scheduler.set_timesteps = functools.wraps(set_timesteps)(functools.partial(set_and_correct, correct=correct))
        generator = seeded(seed)
        start = torch.randn((1, 4, size, size), generator=generator)
        start = start * (1 + nudge * torch.randn(start.shape, generator=seeded(0)))
        return pipe(
            prompt, negative_prompt="", latents=start, generator=generator, num_inference_steps=steps,
            guidance_scale=scale, output_type="latent",
        ).images

    try:
        expected = latents()
    except Exception as refusal:
        return f"diffusers: {refusal}"
    if not expected.isfinite().all():
        return "diffusers: not finite"
    asked = name + ("" if sigmas == "own" else f"-{sigmas}") + "-diffusers"
    out = work / "trace.safetensors"
    command = [
        program, "generate", prompt, "--model", pipe.folder, "--sampler", asked, "--steps", steps, "--guidance", scale,
        "--seed", seed, "--trace", out, "--out", work / "picture.png", "--device", "cpu", "--dtype", "f32",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    gap = lambda a: (a - expected).abs().max().item()
    got = load_file(out)["latents"]
    cell = f"{gap(got):.0e}"
    if first[0] == 998 and sigmas in ["exponential", "beta"]:
        cell += f" → {(got - latents(correct=True)).abs().max().item():.0e}"
    return f"{cell} ({gap(latents(1e-7)):.0e})"


def sampler_page(program, folder, work):
    pipe = open_folder(folder)
    pipe.folder = folder
    config = pipe.scheduler.config
    lines = []
    for name in CLASSES:
        cells = [compare_sampler(program, pipe, config, name, sigmas, work) for sigmas in SIGMAS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    what = "10 steps, scale 5, \"a red apple on the beach, flat\", seed 7"
    return SAMPLERS_PAGE.format(what=what, lines="\n".join(lines))


def main():
    for library in [diffusers, transformers]:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "target" / "debug" / "diffuscope")
    parser.add_argument("--model", type=Path, default=ROOT / "data" / "tiny")
    parser.add_argument("--seed", type=int, default=0, help="of the first random model")
    parser.add_argument("--count", type=int, default=5, help="how many random models")
    parser.add_argument("--no-tiny", action="store_true", help="only the random models")
    parser.add_argument("--families", action="store_true", help="random models of the other families instead")
    parser.add_argument("--samplers", action="store_true", help="print the page of the embedded model's samplers instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        if args.samplers:
            return print(sampler_page(args.program, args.model, work), end="")
        embedded = not (args.no_tiny or args.families)
        checks = [compare_embedded(args.program, args.model, work)] if embedded else []
        compare = compare_family if args.families else compare_random
        # Apart by more than the seeds that each one uses.
        checks += [compare(args.program, 10 * (args.seed + i), work) for i in range(args.count)]
    print(f"\n{sum(checks)} of {len(checks)} are equal")
    sys.exit(0 if all(checks) else 1)


if __name__ == "__main__":
    main()
