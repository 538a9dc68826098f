"""Makes the numbers that the tests hold the library against, with diffusers and transformers.

    pip install -r tests/golden/requirements.txt
    python tests/golden/make.py
    python tests/golden/make.py signatures samplers     these parts alone

Everything is drawn from fixed seeds; the files beside this script are its output.
"""

import inspect
import itertools
import json
import math
import os
import pickle
import shutil
import sys
import warnings
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import diffusers
import numpy as np
import torch
import transformers
import transformers.integrations.peft
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelImg2ImgPipeline,
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
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils import load_image
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

HERE = Path(__file__).parent
TOKENIZER = HERE.parent.parent / "data" / "tokenizer"
SPACINGS = ["leading", "linspace", "trailing"]


def save(name, tensors):
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, HERE / f"{name}.safetensors")


def seeded(seed):
    return torch.Generator("cpu").manual_seed(seed)


def normal(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


# Names carry the arguments: KIND/BETA_START/BETA_END/T/ARRAY.
def schedules():
    def formula(kind, start, end, total):
        if kind == "linear":
            return np.linspace(start, end, total, dtype=np.float64)
        if kind == "scaled_linear":
            return np.linspace(start**0.5, end**0.5, total, dtype=np.float64) ** 2
        alpha_bar = np.cos((np.arange(total + 1) / total + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)

    tensors = {}
    for kind in ["linear", "scaled_linear", "squaredcos_cap_v2"]:
        for start, end, total in [(0.00085, 0.012, 1000), (0.0001, 0.02, 1000), (0.001, 0.3, 50)]:
            betas = formula(kind, start, end, total)
            reference = DDPMScheduler(total, start, end, kind)
            name = f"{kind}/{start}/{end}/{total}"
            tensors[f"{name}/betas"] = torch.from_numpy(betas)
            tensors[f"{name}/alphas_cumprod"] = torch.from_numpy(np.cumprod(1 - betas))
            tensors[f"{name}/betas_f32"] = reference.betas
            tensors[f"{name}/alphas_cumprod_f32"] = reference.alphas_cumprod
    save("schedules", tensors)


# SCHEDULER/SPACING/T/STEPS/OFFSET. diffusers adds the offset under leading spacing alone.
def timesteps():
    classes = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler, "euler": EulerDiscreteScheduler}
    counts = [1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 33, 48, 50, 96, 99, 100, 150, 208, 333, 999, 1000]
    tensors = {}
    for name, scheduler in classes.items():
        for spacing in SPACINGS:
            for total in [100, 1000]:
                for offset in [0, 1] if spacing == "leading" else [0]:
                    for steps in counts:
                        reference = scheduler(
                            total, 0.00085, 0.012, "scaled_linear", timestep_spacing=spacing, steps_offset=offset
                        )
                        # Offset 1 with every timestep would reach past the last one.
                        if steps > total or steps == total and offset:
                            continue
                        reference.set_timesteps(steps)
                        if len(reference.timesteps) == steps:
                            tensors[f"{name}/{spacing}/{total}/{steps}/{offset}"] = reference.timesteps
    save("timesteps", tensors)


# Whose scheduler_config.json is read, by the class that reads it.
SCHEDULERS = [
    *["DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete"],
    *["HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSinglestep", "DPMSolverMultistep"],
    *["DPMSolverSDE", "UniPCMultistep", "DEISMultistep", "LCM"],
]
PIPELINES = [
    *["StableDiffusion", "StableDiffusionImg2Img", "StableDiffusionInpaint", "StableDiffusionInpaintPipelineLegacy"],
    *["StableDiffusionDepth2Img", "StableDiffusionUpscale", "StableDiffusionXL", "StableDiffusionXLImg2Img"],
    *["StableDiffusionXLInpaint", "LatentConsistencyModel", "LatentConsistencyModelImg2Img"],
]


def defaults(function):
    """What a signature assumes where nothing is said."""
    known = inspect.signature(function).parameters.values()
    plain = (str, bool, int, float, list, tuple, type(None))
    return {p.name: p.default for p in known if isinstance(p.default, plain) and p.default is not p.empty}


def small_parts():
    """The least networks that a pipeline takes, the U-Net as an old diffusers saved it."""
    size = dict(block_out_channels=[8], norm_num_groups=8, layers_per_block=1)
    network = UNet2DConditionModel(
        sample_size=32, down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], cross_attention_dim=8, **size
    )
    network.register_to_config(_diffusers_version="0.8.1")
    return dict(unet=network, vae=AutoencoderKL(scaling_factor=0.5, **size))


def made(pipeline_class, parts):
    """The pipeline of these parts, which corrects them."""
    known = inspect.signature(pipeline_class.__init__).parameters
    empty = {name: None for name, p in known.items() if p.default is p.empty and name != "self"}
    if "requires_safety_checker" in known:
        empty["requires_safety_checker"] = False
    return pipeline_class(**empty | parts)


def corrected(pipeline_class, scheduler):
    """A scheduler as a pipeline leaves it."""
    return made(pipeline_class, dict(small_parts(), scheduler=scheduler)).scheduler


def corrections(pipeline_class):
    """What a pipeline makes of the settings that old files have."""
    parts = dict(small_parts(), scheduler=DDIMScheduler(clip_sample=True, steps_offset=0))
    parts["scheduler"].register_to_config(skip_prk_steps=False)
    before = {name: dict(part.config) for name, part in parts.items()}
    pipe = made(pipeline_class, parts)
    after = {name: dict(getattr(pipe, name).config) for name in parts}
    public = lambda name: [key for key in sorted(after[name]) if not key.startswith("_")]
    return {
        name: {key: after[name][key] for key in public(name) if after[name][key] != before[name].get(key)}
        for name in parts
    }


def signatures():
    """src/checkpoint/diffusers.json: what schedulers and pipelines assume where a file says nothing, and what pipelines
    correct; networks.json: what networks assume."""
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    schedulers = {name: defaults(getattr(diffusers, name).__init__) for name in (f"{n}Scheduler" for n in SCHEDULERS)}
    pipelines = {}
    for name in PIPELINES:
        name = name if name.endswith("Legacy") else f"{name}Pipeline"
        pipeline_class = getattr(diffusers, name)
        settings = {k: v for k, v in defaults(pipeline_class.__init__).items() if v is not None and k[0] != "_"}
        upcasts = "force_upcast" in inspect.getsource(pipeline_class)
        pipelines[name] = dict(settings=settings, upcasts=upcasts, corrections=corrections(pipeline_class))
    text, of_all = CLIPTextConfig().to_dict(), transformers.PretrainedConfig().to_dict()
    networks = dict(
        unet=defaults(UNet2DConditionModel.__init__),
        vae=defaults(AutoencoderKL.__init__),
        text_encoder={key: value for key, value in text.items() if key not in of_all or key.endswith("_id")},
    )
    write = lambda path, value: path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    write(HERE.parents[1] / "src" / "checkpoint" / "diffusers.json", dict(schedulers=schedulers, pipelines=pipelines))
    write(HERE / "networks.json", networks)


def model(sample, t):
    return sample * t / (t + 1)


# Whole loops of every scheduler of diffusers that Diffuscope has: samplers.json lists the cases (class, steps, what its
# scheduler_config.json says beside the betas), samplers.safetensors has the last sample of each, in the same order.
SIGMAS = {"own": {}, **{kind: {f"use_{kind}_sigmas": True} for kind in ["karras", "exponential", "beta"]}}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def options(**lists):
    return [dict(zip(lists, values)) for values in itertools.product(*lists.values())]


def sampler_cases():
    def spaced(spacing):
        return {"timestep_spacing": spacing, **({"steps_offset": 1} if spacing == "leading" else {})}

    def case(name, steps=10, eta=0.0, **config):
        cases.append(dict(scheduler=name, steps=steps, eta=eta, config=config))

    cases = []
    for prediction, spacing in itertools.product(PREDICTIONS, SPACINGS):
        base = dict(prediction_type=prediction, **spaced(spacing))
        plain = dict(base, clip_sample=False)
        for eta, one in itertools.product([0.0, 0.6], [False, True]):
            case("DDIMScheduler", eta=eta, set_alpha_to_one=one, **plain)
        case("DDIMScheduler", steps=7, eta=1.0, **base)
        case("DDPMScheduler", **plain)
        case("DDPMScheduler", steps=7, clip_sample_range=0.7, **base)
        for steps, skip in [(10, True), (30, True), (10, False), (30, False)]:
            case("PNDMScheduler", steps=steps, skip_prk_steps=skip, **base)
        case("EulerAncestralDiscreteScheduler", **base)
        case("LCMScheduler", steps=4, **base)
        case("LCMScheduler", steps=5, clip_sample=True, original_inference_steps=40, **base)
        for thresholded in ["DDIMScheduler", "DDPMScheduler", "LCMScheduler", "UniPCMultistepScheduler"]:
            case(thresholded, thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5, **plain)
        for kind, sigmas in SIGMAS.items():
            both = dict(base, **sigmas)
            for name in ["LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"]:
                case(name, **both)
            case("DPMSolverSDEScheduler", **both)
            case("HeunDiscreteScheduler", **both)
            case("EulerDiscreteScheduler", **both)
            if spacing != "linspace":
                case("EulerDiscreteScheduler", final_sigmas_type="sigma_min", **both)
            orders = options(solver_order=[1, 2, 3], solver_type=["midpoint", "heun"])
            algorithms = ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"]
            for order, algorithm in itertools.product(orders, algorithms):
                end = {} if algorithm.endswith("++") else {"final_sigmas_type": "sigma_min"}
                solver = dict(algorithm_type=algorithm, **order, **end)
                case("DPMSolverMultistepScheduler", **solver, **both)
                if spacing == "linspace":
                    case("DPMSolverSinglestepScheduler", **solver, **both)
            for order, solver, x0 in itertools.product([1, 2, 3], ["bh1", "bh2"], [True, False]):
                # Elsewhere the reference multiplies infinity by nothing on the picture.
                end = {} if x0 and solver == "bh2" else {"final_sigmas_type": "sigma_min"}
                which = dict(solver_order=order, solver_type=solver, predict_x0=x0)
                case("UniPCMultistepScheduler", **which, **end, **both)
            for order in [1, 2, 3]:
                case("DEISMultistepScheduler", solver_order=order, **both)
        case("HeunDiscreteScheduler", clip_sample=True, clip_sample_range=1.2, **base)
        # From 15 steps on the multistep solvers end at their full order.
        long = dict(base, final_sigmas_type="sigma_min")
        for order in [2, 3]:
            case("DPMSolverMultistepScheduler", steps=20, solver_order=order, **base)
            case("DPMSolverMultistepScheduler", steps=20, solver_order=order, **long)
            case("DPMSolverMultistepScheduler", steps=20, solver_order=order, euler_at_final=True, **long)
            case("DPMSolverMultistepScheduler", steps=10, solver_order=order, lower_order_final=False, **long)
            case("DEISMultistepScheduler", steps=20, solver_order=order, **base)
            case("UniPCMultistepScheduler", steps=20, solver_order=order, **long)
            if spacing == "linspace":
                for steps in [9, 11, 12, 20]:
                    case("DPMSolverSinglestepScheduler", steps=steps, solver_order=order, **base)
        for order in [2, 3]:
            case("DEISMultistepScheduler", solver_order=order, lower_order_final=False, **base)
            case("UniPCMultistepScheduler", solver_order=order, lower_order_final=False, **long)
        # Few steps.
        for steps, sigmas in itertools.product([1, 2, 3, 4, 5], ["own", "karras"]):
            few = dict(base, **SIGMAS[sigmas])
            for name in ["EulerDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "DPMSolverMultistep"]:
                case(f"{name}Scheduler", steps=steps, **few)
            for name in ["UniPCMultistep", "DEISMultistep", "DPMSolverSDE", "KDPM2AncestralDiscrete"]:
                case(f"{name}Scheduler", steps=steps, **few)
            case("UniPCMultistepScheduler", steps=steps, predict_x0=False, final_sigmas_type="sigma_min", **few)
            case("DPMSolverMultistepScheduler", steps=steps, algorithm_type="sde-dpmsolver++", solver_order=3, **few)
            if spacing == "linspace":
                case("DPMSolverSinglestepScheduler", steps=steps, solver_order=3, **few)
        for steps in [1, 2, 3, 4, 5]:
            for name in ["DDIM", "DDPM", "LCM", "EulerAncestralDiscrete"]:
                case(f"{name}Scheduler", steps=steps, **plain)
            case("PNDMScheduler", steps=steps, skip_prk_steps=True, **base)
        zero = dict(plain, rescale_betas_zero_snr=True)
        for name in ["DDIM", "DDPM", "LCM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep"]:
            case(f"{name}Scheduler", **zero)
    return cases


class Wide:
    """A library that says f64 where it is asked for f32."""

    def __init__(self, library):
        self.library, self.float32 = library, library.float64

    def __getattr__(self, name):
        return getattr(self.library, name)


def run_sampler(case, x_T, noises):
    """The last sample of a whole loop, with the noises given; all in f64 if they are."""
    scheduler_class = getattr(diffusers, case["scheduler"])
    module = sys.modules[scheduler_class.__module__]
    if x_T.dtype == torch.float64:
        with patch.object(module, "np", Wide(np)), patch.object(module, "torch", Wide(torch)):
            return run_scheduler(scheduler_class, case, x_T, noises)
    return run_scheduler(scheduler_class, case, x_T, noises)


def run_scheduler(scheduler_class, case, x_T, noises):
    config = dict(BETAS, **case["config"])
    known = inspect.signature(scheduler_class.__init__).parameters
    scheduler = scheduler_class(**{key: value for key, value in config.items() if key in known})
    return run_loop(scheduler, case["steps"], case["eta"], x_T, noises)


def run_loop(scheduler, count, eta, x_T, noises, skipped=0):
    """The last sample; every draw takes the next of the noises. Without its first steps, as image to image has it."""
    draws = iter(noises)
    scheduler.set_timesteps(count)
    start = skipped * scheduler.order
    if skipped and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    if isinstance(scheduler, diffusers.DPMSolverSDEScheduler):
        # Made anew in the first step, unless there is one.
        scheduler.noise_sampler = lambda *_: next(draws)
    steps = inspect.signature(scheduler.step).parameters
    x = x_T * scheduler.init_noise_sigma
    with patch(f"{type(scheduler).__module__}.randn_tensor", lambda *_, **__: next(draws), create=True):
        for t in scheduler.timesteps[start:]:
            output = model(scheduler.scale_model_input(x, t), t)
            extra = {"eta": eta} if "eta" in steps else {}
            x = scheduler.step(output, t, x, **extra).prev_sample
    return x


def samplers():
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    shape, kept, refused, last, last_f64 = (1, 2, 2, 2), [], [], [], []
    x_T, noises = normal(shape, 1), normal((64, *shape), 2)
    for case in sampler_cases():
        # What the class does not know would be left out without a word.
        known = inspect.signature(getattr(diffusers, case["scheduler"]).__init__).parameters
        shared = {"clip_sample", "timestep_spacing", "steps_offset"}
        strange = [key for key in case["config"] if key not in known and key not in shared]
        try:
            if strange:
                raise ValueError(f"has no {strange[0]}")
            to_itself = case["scheduler"] == "DEISMultistepScheduler" or case["config"].get("predict_x0") is False
            if case["steps"] == 1 and "use_karras_sigmas" in case["config"] and to_itself:
                raise ValueError("its only step ends where it begins")
            result = run_sampler(case, x_T, noises)
            if not result.isfinite().all():
                raise ValueError("ends on numbers that are not finite")
            wide = run_sampler(case, x_T.double(), noises.double())
        except (ValueError, NotImplementedError, UnboundLocalError, IndexError) as error:
            other = {UnboundLocalError: "not written", IndexError: "leaves its own list"}
            reason = other.get(type(error), str(error).split(". ")[0])
            refused.append(dict(case, reason=reason))
            continue
        kept.append(case)
        last.append(result)
        last_f64.append(wide)
    lines = ",\n".join(json.dumps(case) for case in [*kept, *refused])
    (HERE / "samplers.json").write_text(f"[\n{lines}\n]\n")
    save("samplers", {"x_T": x_T, "noises": noises, "last": torch.stack(last), "last_f64": torch.stack(last_f64)})


def config_cases():
    """A pipeline, the class that its model_index.json names for the scheduler, and the scheduler's file as people have it."""
    sd, xl, inpaint = "StableDiffusion", "StableDiffusionXL", "StableDiffusionInpaint"
    saved = diffusers.DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True, algorithm_type="sde-dpmsolver++")
    saved = json.loads(saved.to_json_string())
    long = dict(BETAS, final_sigmas_type="sigma_min")
    cases = [
        (sd, "DDIM", BETAS),
        (sd, "DDIM", dict(BETAS, clip_sample=True, steps_offset=0)),
        (sd, "DDIM", dict(BETAS, clip_sample=None, set_alpha_to_one=None, thresholding=None, trained_betas=None)),
        (xl, "DDIM", BETAS),
        (xl, "DDIM", dict(BETAS, clip_sample=None, rescale_betas_zero_snr=None)),
        (xl, "DDIM", dict(BETAS, clip_sample=False, _use_default_values=["clip_sample"])),
        (xl, "DDIM", dict(BETAS, clip_sample=False, thresholding=True, sample_max_value=math.inf)),
        (inpaint, "DDIM", BETAS),
        (inpaint, "PNDM", BETAS),
        (sd, "PNDM", dict(BETAS, _class_name="DDIMScheduler", skip_prk_steps=True)),
        (sd, "PNDM", dict(BETAS, rescale_betas_zero_snr=True, skip_prk_steps=True)),
        (sd, "PNDM", dict(BETAS, skip_prk_steps=None)),
        (sd, "DDIM", dict(BETAS, _class_name="PNDMScheduler")),
        (sd, "DDIM", {}),
        (sd, "DDIMParallel", BETAS),
        (sd, "DDPMParallel", BETAS),
        (sd, "DDPM", dict(BETAS, variance_type=None, thresholding=None)),
        (sd, "DPMSolverMultistep", saved),
        (sd, "DPMSolverMultistep", {}),
        (sd, "DPMSolverMultistep", dict(BETAS, lower_order_final=None, solver_order=3, solver_type="bh2")),
        (sd, "DPMSolverSinglestep", dict(BETAS, timestep_spacing="trailing", rescale_betas_zero_snr=True)),
        (sd, "EulerDiscrete", dict(BETAS, timestep_type=None, sigma_min=None)),
        (sd, "EulerDiscrete", dict(long, clip_sample=True, thresholding=True, something_new=[1])),
        (sd, "EulerAncestralDiscrete", dict(long, use_karras_sigmas=True)),
        (sd, "LMSDiscrete", dict(long, use_exponential_sigmas=True, rescale_betas_zero_snr=True)),
        (sd, "HeunDiscrete", dict(long, clip_sample=True)),
        (xl, "HeunDiscrete", dict(BETAS, clip_sample=True)),
        (sd, "HeunDiscrete", {}),
        (sd, "KDPM2Discrete", long),
        (sd, "KDPM2AncestralDiscrete", dict(long, clip_sample=True)),
        (sd, "DPMSolverSDE", dict(long, timestep_spacing="trailing")),
        (sd, "UniPCMultistep", dict(long, predict_x0=None, clip_sample=True)),
        (sd, "UniPCMultistep", {}),
        (sd, "DEISMultistep", dict(BETAS, lower_order_final=None, solver_order=3, final_sigmas_type="zero")),
        (sd, "DEISMultistep", dict(BETAS, lower_order_final=False, algorithm_type="dpmsolver++")),
        (sd, "DEISMultistep", {}),
        (xl, "LCM", {}),
        (sd, "LCM", dict(BETAS, timestep_spacing="trailing", clip_sample=True)),
    ]
    # Cosine schedules: clamped for nobody who was not asked to rescale.
    cosine = dict(BETAS, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    for name in ["DDPM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "KDPM2Discrete"]:
        cases.append((xl, name, dict(cosine, clip_sample=False)))
    # Of other sigmas, the DPM-Solver kind finds the first step by a timestep that occurs twice.
    cases += [(xl, name, dict(cosine, **sigmas)) for name in ["EulerDiscrete", "LMSDiscrete"] for sigmas in SIGMAS.values()]
    zero = dict(cosine, rescale_betas_zero_snr=True, clip_sample=False)
    cases += [(xl, name, zero) for name in ["EulerDiscrete", "UniPCMultistep"]]
    cases = [(*case, 0) for case in cases]
    # From image to image: the steps that are left out.
    for prediction, spacing, skipped in itertools.product(PREDICTIONS[:2], SPACINGS, [1, 2, 5, 9]):
        old = dict(BETAS, skip_prk_steps=True, prediction_type=prediction, timestep_spacing=spacing)
        cases.append((sd, "PNDM", old, skipped))
    for name in ["DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"]:
        cases.append((sd, name, BETAS, 4))
    return [(f"{pipeline}Pipeline", f"{name}Scheduler", config, skipped) for pipeline, name, config, skipped in cases]


# The last sample of ten steps, with the scheduler that a pipeline of diffusers makes of its file.
def configs():
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    shape, lines, last, last_f64 = (1, 2, 2, 2), [], [], []
    x_T, noises = normal(shape, 1), normal((64, *shape), 2)
    for pipeline, name, config, skipped in config_cases():
        config = dict(dict(_class_name=name), **config)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "scheduler_config.json").write_text(json.dumps(config))
            scheduler_class = getattr(diffusers, name)
            read = lambda: corrected(getattr(diffusers, pipeline), scheduler_class.from_pretrained(folder))
            module = sys.modules[scheduler_class.__module__]
            result = run_loop(read(), 10, 0.0, x_T, noises, skipped)
            with patch.object(module, "np", Wide(np)), patch.object(module, "torch", Wide(torch)):
                wide = run_loop(read(), 10, 0.0, x_T.double(), noises.double(), skipped)
        assert wide.isfinite().all() and (wide - result).abs().max() < 0.1, (name, config)
        case = dict(pipeline=pipeline, scheduler=name, skipped=skipped, file=json.dumps(config))
        lines.append(json.dumps(case))
        last.append(result)
        last_f64.append(wide)
    (HERE / "configs.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    save("configs", {"x_T": x_T, "noises": noises, "last": torch.stack(last), "last_f64": torch.stack(last_f64)})


PROMPTS = [
    "",
    " ",
    "a",
    "a red star, flat",
    "A RED STAR, FLAT",
    "two lemons left of a blue fish on the beach, 3d",
    "  spaces   before,   between \t and after  ",
    "line one\nline two\r\nline three\u2028line four",
    "it's, we're, I've, I'm, they'll, he'd, don't, o'clock 's 't",
    "IT'S, WE'RE, DON'T, O'CLOCK",
    "rock 'n' roll and the '90s",
    "\u2019tis the artist\u2019s \u201cdream\u201d \u2014 isn\u2019t it\u2026",
    "year 2024, 3.14159, 1,000,000 and 42nd",
    "\u0661\u0662\u0663 \u2460 \u2167 \u00bd x\u00b2",
    "!!! ??? ... --- ((( ))) [[[ ]]] !?!? @#$%^&*",
    "(a cat:1.3), [dog], {fox}, a_b-c/d\\e|f~g`h",
    "caf\u00e9 na\u00efve \u00fcber stra\u00dfe \u0141\u00f3d\u017a \u010desk\u00fd",
    "cafe\u0301 nai\u0308ve u\u0308ber",
    "\u00c0\u00c9\u00ce\u00d5\u00dc \u0130stanbul \u1e9e \u01c5 \u03a3\u03a3\u03a3",
    "\uff21\uff22\uff23 \ufb01sh \ufb02ag \u2126 \u212b",
    "\U0001f431 on a \U0001f680",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea \u2764\ufe0f",
    "cat\U0001f431dog\U0001f436",
    "\u4e00\u53ea\u732b",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\u30ab\u30bf\u30ab\u30ca\u3002",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0422\u0415\u041a\u0421\u0422",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u03ba\u03b1\u03af",
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "control\x00characters\x01\x07\x1b[31m\x7f here",
    "tab\tvertical\x0bform\x0cfeed\x85next\xa0nbsp\u3000wide\ufeffbom",
    "zero\u200bwidth\u200cjoin\u200der \u202eright to left",
    "<|endoftext|>",
    "<|startoftext|>",
    "a cat <|endoftext|> a dog",
    "a cat<|startoftext|>a dog",
    "<|ENDOFTEXT|> <|StartOfText|>",
    "< |endoftext| > <|endoftext <endoftext>",
    "!",
    "! ! !",
    "a !b",
    "&amp; &lt;b&gt; &#39;",
    "<b>bold</b> <a href='x'>link</a>",
    "https://example.org/path?x=1&y=2#z user@example.org",
    "C++ and C# and .NET, f(x) = x^2 + 2x - 1",
    "snake_case_name CamelCaseName kebab-case-name",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "xqzjkvwpfhq zzzzqqqq",
    "a photograph of an astronaut riding a horse, highly detailed, artstation, sharp focus, 8k",
    "a " * 73 + "b",
    "a " * 74 + "b",
    "a " * 75 + "b",
    "a " * 200,
    "\U0001f431" * 40,
    "very " * 70 + "supercalifragilisticexpialidocious end",
    "1" * 100,
    "\u732b" * 60,
    "...\n...\n...",
    "it\u02bcs don\uff07t",
    "e\u0301\u0301 \u1100\u1161\u11a8 \u0344",
    "\ue000 private \ufffd replaced \ufffe \U0010ffff",
]


def tokenizer():
    end = CLIPTokenizer.from_pretrained(TOKENIZER)
    zero = CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!")
    ids = lambda t, text: t(text, padding="max_length", max_length=77, truncation=True).input_ids
    cases = [{"prompt": p, "pad_end": ids(end, p), "pad_zero": ids(zero, p)} for p in PROMPTS]
    (HERE / "tokenizer.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


# Folders whose tokens stand in several files, each with the ids of some prompts: the same files are written by the test.
ADDED = ["a <cat-toy> on grass", "a <Cat-Toy>!", "<cat-toy>s", "x<cat-toy> y", "a sks1 b", "a cat</w> b", "!a"]


def added_tokens():
    def saved(**tokens):
        """The `tokenizer.json` of the tiny vocabulary, with these tokens added to it."""
        folder = HERE / "added_tokens_work"
        tiny_tokenizer(folder, pad_token="<|endoftext|>").save_pretrained(folder)
        kept = json.loads((folder / "tokenizer.json").read_text())
        shutil.rmtree(folder)
        kept["added_tokens"] += [
            dict(id=i, content=token, single_word=False, lstrip=False, rstrip=False, normalized=True, special=False)
            for token, i in tokens.items()
        ]
        return kept

    def token(content, **more):
        return dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=True, special=False, **more)

    folder, cases = HERE / "added_tokens_work", []
    parts = {
        "added": {"added_tokens.json": {"<cat-toy>": 714}},
        "gap": {"added_tokens.json": {"<cat-toy>": 720, "sks1": 717}},
        "decoder": {"tokenizer_config.json": {"added_tokens_decoder": {"714": token("<cat-toy>")}, "pad_token": "!"}},
        "special": {"special_tokens_map.json": {"additional_special_tokens": ["<cat-toy>"], "pad_token": "!"}},
        "json": {"tokenizer.json": saved(**{"<cat-toy>": 714})},
        "json_and_added": {"tokenizer.json": saved(), "added_tokens.json": {"<cat-toy>": 714}},
        "same_id": {"tokenizer.json": saved(**{"<cat-toy>": 714}), "added_tokens.json": {"sks1": 714}},
        "more": {"tokenizer.json": saved(**{"<cat-toy>": 714}), "added_tokens.json": {"<cat-toy>": 714, "sks1": 715}},
        "before": {"tokenizer.json": saved(**{"<cat-toy>": 715}), "added_tokens.json": {"sks1": 714}},
        "decoder_alone_counts": {
            "tokenizer.json": saved(**{"sks1": 714}),
            "added_tokens.json": {"sks1": 714},
            "tokenizer_config.json": {"added_tokens_decoder": {"714": token("<cat-toy>")}},
        },
    }
    for name, files in parts.items():
        tiny_tokenizer(folder, pad_token="<|endoftext|>")
        for path in folder.iterdir():
            if path.name not in ["vocab.json", "merges.txt"]:
                path.unlink()
        for path, content in files.items():
            (folder / path).write_text(json.dumps(content))
        opened = CLIPTokenizer.from_pretrained(folder)
        ids = [opened(prompt, padding="max_length", max_length=77).input_ids[:16] for prompt in ADDED]
        # The vocabulary itself is in the repository once.
        files = {path: dict(content, model=None) if "model" in content else content for path, content in files.items()}
        cases.append(dict(name=name, files=files, prompts=ADDED, ids=ids))
        shutil.rmtree(folder)
    (HERE / "added_tokens.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


# KIND/file holds the bytes of a picture; KIND/picture and KIND/mask are what diffusers' processors make of it, 8 by 16.
def pictures():
    numbers = np.random.default_rng(7)
    drawn = lambda *shape: numbers.integers(0, 256, shape, dtype=np.uint8)
    smooth = lambda image: image.resize((20, 12), Image.Resampling.BICUBIC)
    colour = smooth(Image.fromarray(drawn(5, 6, 3)))
    # Nowhere wholly transparent: what stands there is black in a mask here, and in diffusers what the file hides.
    alpha = Image.fromarray(np.maximum(np.array(smooth(Image.fromarray(drawn(5, 6)))), 1))
    veiled = colour.copy()
    veiled.putalpha(alpha)
    grey = colour.convert("L")
    both = Image.merge("LA", [grey, alpha])
    kinds = {
        "rgb": colour, "rgba": veiled, "grey": grey, "grey_alpha": both, "palette": colour.quantize(16),
        "bits": grey.convert("1"), "jpeg": colour, "cmyk": colour.convert("CMYK"),
    }
    strokes = np.zeros((12, 20, 4), np.uint8)
    strokes[3:6, 2:15] = 255
    kinds["strokes"] = Image.fromarray(strokes)
    kinds["turned"] = colour
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = VaeImageProcessor(vae_scale_factor=2)
    masks = VaeImageProcessor(vae_scale_factor=2, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    tensors = {}
    for name, image in kinds.items():
        file = HERE / "picture_work"
        # Decoders enlarge halved colours each in its own way.
        jpeg = dict(format="JPEG", subsampling=0, quality=95)
        png = dict(format="PNG", **(dict(exif=turned) if name == "turned" else {}))
        image.save(file, **(jpeg if name in ["jpeg", "cmyk"] else png))
        tensors[f"{name}/file"] = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        tensors[f"{name}/picture"] = pictures.preprocess(load_image(str(file)), 16, 8)
        tensors[f"{name}/mask"] = masks.preprocess(load_image(str(file)), 16, 8)
        file.unlink()
    save("pictures", tensors)


# PHI and SCALE/ETA/THRESHOLD/MOMENTUM in the names: guidance beyond the plain rule, two steps of the projected one.
def guidance():
    shape, tensors = (2, 4, 5, 3), {}
    uncond, cond = [[normal(shape, seed, torch.float64) for seed in pair] for pair in [(1, 2), (3, 4)]]
    tensors["uncond"], tensors["cond"] = torch.stack(uncond), torch.stack(cond)
    for phi in [0.0, 0.3, 0.7, 1.0]:
        tensors[f"rescale/{phi}"] = rescale_noise_cfg(7.5 * cond[0] - 6.5 * uncond[0], cond[0], phi)
    for scale, eta, threshold, momentum in [(7.5, 0.0, 15.0, -0.5), (3.0, 1.0, 2.5, 0.0), (12.0, 0.4, 4.0, 0.3)]:
        buffer = MomentumBuffer(momentum)
        # The paper counts the scale from the conditional prediction on, and so does this formulation.
        both = [normalized_guidance(c, u, scale - 1, buffer, eta, threshold, True) for u, c in zip(uncond, cond)]
        tensors[f"projected/{scale}/{eta}/{threshold}/{momentum}"] = torch.stack(both)
    save("guidance", tensors)


# SEED/INDEX: draws of one generator after each other. Below 16 numbers torch draws another way.
def noise():
    tensors = {}
    for seed in [0, 1, 42, 1234567890123, 2**63 - 1]:
        generator = seeded(seed)
        for i, shape in enumerate([(3,), (15,), (16,), (17,), (1, 4, 3, 5), (2, 4, 8, 8), (7,), (1, 4, 9, 7)]):
            tensors[f"{seed}/{i}"] = torch.randn(shape, generator=generator)
    save("noise", tensors)


def randomize(network, seed, dtype=torch.float32):
    """Random weights of which every one matters, norms and biases too, rounded to `dtype`."""
    generator = seeded(seed)
    for name, tensor in network.named_parameters():
        draw = torch.randn(tensor.shape, generator=generator)
        if "embedding.weight" in name:
            tensor.data = draw * 0.5
        elif tensor.dim() > 1:
            tensor.data = draw / tensor[0].numel() ** 0.5
        else:
            tensor.data = draw * 0.2 + ("norm" in name and name.endswith("weight"))
    return network.to(dtype).float().eval().requires_grad_(False)


def store(network, folder, tensors, dtype, rename=lambda name: name):
    """The network as its library saves it, and what it makes of the inputs."""
    shutil.rmtree(folder, ignore_errors=True)
    network.to(dtype).save_pretrained(folder)
    network.float()
    (path,) = folder.glob("*model.safetensors")
    weights = load_file(path)
    save_file({rename(name): tensor for name, tensor in weights.items()}, path, {"format": "pt"})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "golden.safetensors")


def text_encoder(seed, **config):
    return randomize(CLIPTextModel(CLIPTextConfig(bos_token_id=0, eos_token_id=1, **config)), seed, torch.float16)


def text_projections():
    """States, skipped layers and pooled embeddings, with the end token's id and with the 2 of old files."""
    size = dict(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
    for name, seed, end in [("end", 1, 30), ("legacy", 2, 2)]:
        config = CLIPTextConfig(bos_token_id=0, eos_token_id=end, hidden_act="gelu", projection_dim=10, **size)
        network = randomize(CLIPTextModelWithProjection(config), seed, torch.float16)
        ids = torch.randint(3, 29, (3, 11), generator=seeded(seed))
        # In old files the largest id is the end: padding with it, or with anything below, changes nothing.
        for row, place in enumerate([4, 10, 7]):
            ids[row, place:] = 30 if row == 0 else 0
            ids[row, place] = 30
        out = network(ids, output_hidden_states=True)
        norm = network.text_model.final_layer_norm
        tensors = {"ids": ids, "text_embeds": out.text_embeds, "context": out.last_hidden_state}
        tensors |= {f"skip_{n}": norm(out.hidden_states[-(n + 1)]) for n in range(4)}
        tensors |= {f"state_{n}": out.hidden_states[-(n + 1)] for n in range(4)}
        store(network, HERE / "text_projection" / name, tensors, torch.float16)


def text_encoders():
    def case(name, seed, length, rename, **config):
        network = text_encoder(seed, vocab_size=96, **config)
        ids = torch.randint(0, 96, (2, length), generator=seeded(seed))
        tensors = {"ids": ids, "context": network(ids).last_hidden_state}
        store(network, HERE / "text_encoder" / name, tensors, torch.float16, rename)

    # Versions of transformers differ in this prefix.
    def bare(name):
        return name.removeprefix("text_model.")

    def scoped(name):
        return f"text_model.{bare(name)}"

    sd1 = dict(hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4)
    sd2 = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2)
    case("quick_gelu", 1, 77, scoped, hidden_act="quick_gelu", **sd1)
    case("gelu", 2, 77, bare, hidden_act="gelu", **sd2)
    case("eps", 3, 20, scoped, hidden_act="gelu", layer_norm_eps=1e-3, **sd1)


# The U-Nets: SD 1.x's shape, SD 2.x's, odd sizes over four levels, a single level, 32 groups.
UNETS = {
    "sd1": dict(
        block_out_channels=[16, 32],
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=24,
        norm_num_groups=8,
    ),
    "sd2": dict(
        block_out_channels=[16, 32],
        down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=2,
        attention_head_dim=[2, 8],
        cross_attention_dim=20,
        norm_num_groups=16,
        use_linear_projection=True,
        upcast_attention=True,
    ),
    "deep": dict(
        block_out_channels=[8, 16, 16, 24],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=[1, 2, 1, 1],
        attention_head_dim=[1, 2, 4, 3],
        transformer_layers_per_block=[1, 2, 1, 1],
        cross_attention_dim=12,
        norm_num_groups=8,
        norm_eps=1e-4,
        flip_sin_to_cos=False,
        freq_shift=1,
    ),
    "single": dict(
        block_out_channels=[24],
        down_block_types=["CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D"],
        layers_per_block=1,
        attention_head_dim=3,
        cross_attention_dim=8,
        norm_num_groups=12,
        in_channels=4,
        out_channels=8,
        use_linear_projection=True,
    ),
    "groups": dict(
        block_out_channels=[32, 32],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=16,
        norm_num_groups=32,
    ),
}


def unets():
    sizes = {"sd1": (8, 8), "sd2": (9, 7), "deep": (13, 10), "single": (5, 6), "groups": (6, 10)}
    for seed, (name, config) in enumerate(UNETS.items()):
        network = randomize(UNet2DConditionModel(sample_size=sizes[name], **config), seed, torch.float16)
        sample = normal((2, 4, *sizes[name]), seed)
        context = normal((2, 11, config["cross_attention_dim"]), seed + 100)
        timestep = torch.tensor([981, 3])
        tensors = {"sample": sample, "timestep": timestep, "context": context}
        tensors["noise_pred"] = network(sample, timestep, context).sample
        # Euler stands between two timesteps.
        tensors["fractional"] = network(sample, torch.tensor(344.4828), context).sample
        store(network, HERE / "unet" / name, tensors, torch.float16)


def vae(seed, widths, **config):
    network = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        **config,
    )
    return randomize(network, seed, torch.float16)


def vaes():
    def case(name, seed, size, widths, rename=lambda name: name, **config):
        network = vae(seed, widths, **config)
        image = torch.rand((2, 3, *size), generator=seeded(seed)) * 2 - 1
        posterior = network.encode(image).latent_dist
        scale, shift = network.config.scaling_factor, network.config.shift_factor or 0
        latents = normal(posterior.mean.shape, seed + 100)
        tensors = {
            "image": image,
            "mean": posterior.mean,
            "logvar": posterior.logvar,
            "encoded": (posterior.mean - shift) * scale,
            "latents": latents,
            "decoded": network.decode(latents / scale + shift).sample,
        }
        store(network, HERE / "vae" / name, tensors, torch.float16, rename)

    # What diffusers called the attention's layers before 0.18.
    def old(name):
        for new, was in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]:
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")
        return name

    case("sd", 1, (24, 40), [8, 8, 16, 16], layers_per_block=2, norm_num_groups=8)
    case("old_names", 2, (10, 6), [8, 16], old, norm_num_groups=4, scaling_factor=0.13025)
    plain = dict(use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False)
    case("plain", 3, (12, 16), [8, 8, 24], norm_num_groups=8, latent_channels=6, shift_factor=0.1, **plain)
    case("single", 4, (7, 5), [16], norm_num_groups=16, layers_per_block=2)


def vae_tiles():
    """The autoencoder `vae/sd` in tiles of 4 cells, one of which overlaps."""
    network = AutoencoderKL.from_pretrained(HERE / "vae" / "sd", torch_dtype=torch.float32).eval()
    image, latents = torch.rand((1, 3, 72, 40), generator=seeded(1)) * 2 - 1, normal((1, 4, 9, 6), 2)
    network.enable_tiling()
    network.tile_sample_min_size, network.tile_latent_min_size = 32, 4
    with torch.no_grad():
        mean = network.encode(image).latent_dist.mean
        decoded = network.decode(latents / network.config.scaling_factor).sample
    save("vae_tiles", {"image": image, "latents": latents, "mean": mean, "decoded": decoded})


def trace(pipeline, prompts, negative, latents, steps, guidance_scale, device="cpu"):
    """What `StableDiffusionPipeline` does, step by step, with the names of a Diffuscope trace."""
    seen = {name: [] for name in ["timesteps", "x_t", "noise_uncond", "noise_cond", "noise_pred", "x_0"]}
    forward, step = pipeline.unet.forward, pipeline.scheduler.step

    def watched_forward(*args, **kwargs):
        out = forward(*args, **kwargs)
        for name, half in zip(["noise_uncond", "noise_cond"], out[0].chunk(2)):
            seen[name].append(half)
        return out

    def watched_step(noise_pred, t, x_t, **kwargs):
        out = step(noise_pred, t, x_t, **kwargs)
        for name, value in [("timesteps", t.float()), ("x_t", x_t), ("noise_pred", noise_pred), ("x_0", out[1])]:
            seen[name].append(value)
        return out

    with patch.object(pipeline.unet, "forward", watched_forward), patch.object(pipeline.scheduler, "step", watched_step):
        final = pipeline(
            prompts,
            negative_prompt=[negative] * len(prompts),
            latents=latents,
            height=latents.shape[2] * pipeline.vae_scale_factor,
            width=latents.shape[3] * pipeline.vae_scale_factor,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            output_type="latent",
        ).images
    tensors = {name: torch.stack(values) for name, values in seen.items()}
    tensors["latents"] = final
    with torch.no_grad():
        tensors["image"] = pipeline.vae.decode(final / pipeline.vae.config.scaling_factor).sample
    return tensors


# As SD 1.x's folder has it; `timestep_spacing` is left out there, and every scheduler has its own.
SD1_SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    skip_prk_steps=True,
    set_alpha_to_one=False,
    steps_offset=1,
)


def pipeline(parts):
    quiet = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    quiet.set_progress_bar_config(disable=True)
    return quiet


def tiny_tokenizer(folder, **special):
    """The first 200 merges of CLIP's vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = (TOKENIZER / "merges.txt").read_text().splitlines()[:201]
    vocabulary = list(json.loads((TOKENIZER / "vocab.json").read_text()))[:712]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77, **special)


def pipelines():
    def case(name, seed, prediction, tokenizer_files, text, unet, pad):
        folder = HERE / "pipeline" / name
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer = tiny_tokenizer(folder / "tokenizer", pad_token=pad)
        end = tokenizer.eos_token_id
        model = pipeline(
            dict(
                tokenizer=tokenizer,
                text_encoder=randomize(
                    CLIPTextModel(
                        CLIPTextConfig(
                            vocab_size=len(tokenizer),
                            hidden_size=32,
                            intermediate_size=64,
                            num_hidden_layers=2,
                            num_attention_heads=4,
                            hidden_act=text,
                            bos_token_id=end - 1,
                            eos_token_id=end,
                        )
                    ),
                    seed,
                    torch.float16,
                ),
                unet=randomize(
                    UNet2DConditionModel(sample_size=8, **{**UNETS[unet], "cross_attention_dim": 32, "layers_per_block": 1}),
                    seed,
                    torch.float16,
                ),
                vae=vae(seed, [8, 8, 16], norm_num_groups=8),
                scheduler=PNDMScheduler(**SD1_SCHEDULER, prediction_type=prediction),
            )
        )
        model.to(torch.float16).save_pretrained(folder)
        model.to(torch.float32)
        # transformers 5 writes tokenizer.json alone, older versions the other files.
        for path in (folder / "tokenizer").iterdir():
            if path.name not in tokenizer_files:
                path.unlink()
        scheduler = folder / "scheduler" / "scheduler_config.json"
        config = json.loads(scheduler.read_text())
        del config["timestep_spacing"]
        config["clip_sample"] = False
        scheduler.write_text(json.dumps(config, indent=2) + "\n")

        prompts, negative = ["a red star, flat", "two cats on the beach"], "blurry!"
        latents = normal((2, 4, 8, 6), seed)
        for sampler, scheduler in [("ddim", DDIMScheduler), ("euler", EulerDiscreteScheduler)]:
            opened = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
            opened.set_progress_bar_config(disable=True)
            opened.scheduler = scheduler.from_config(opened.scheduler.config)
            tensors = trace(opened, prompts, negative, latents, 5, 5.0)
            tensors["initial_latents"] = latents
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{sampler}.safetensors")

    old = ["vocab.json", "merges.txt", "tokenizer_config.json"]
    new = ["tokenizer.json", "tokenizer_config.json"]
    case("sd1", 1, "epsilon", old, "quick_gelu", "sd1", "<|endoftext|>")
    case("sd2", 2, "v_prediction", new, "gelu", "sd2", "!")


# What is particular of each family's U-Net, at small widths.
FAMILIES = {
    "sdxl": dict(
        block_out_channels=[4, 8, 8],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=[1, 2, 4],
        transformer_layers_per_block=[1, 1, 2],
        cross_attention_dim=40,
        use_linear_projection=True,
        upcast_attention=None,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=36,
    ),
    "inpainting": dict(in_channels=9),
    "depth": dict(in_channels=5, use_linear_projection=True, attention_head_dim=[2, 4]),
    "upscaler": dict(
        block_out_channels=[4, 8, 8],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        in_channels=7,
        only_cross_attention=[True, True, False],
        num_class_embeds=30,
        use_linear_projection=True,
    ),
    "lcm": dict(time_cond_proj_dim=6),
}
# Where a family has nothing to say.
ORDINARY = dict(
    block_out_channels=[8, 16],
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=16,
    norm_num_groups=4,
    sample_size=8,
)
PROMPTED = dict(prompt=["a red star, flat", "two cats on the beach"], num_inference_steps=20, guidance_scale=5.0)


def unet_golden(name, network, seed):
    """One pass of a family's U-Net; `channels` stand beside the sample's in the names that the library has."""
    config = network.config
    sample, context = normal((2, config.in_channels, 8, 6), seed), normal((2, 5, config.cross_attention_dim), seed + 1)
    tensors = {"sample": sample[:, :4], "timestep": torch.tensor([981, 3]), "context": context}
    more = {}
    if config.in_channels > 4:
        tensors["channels"] = sample[:, 4:]
    if config.num_class_embeds:
        more["class_labels"] = tensors["class_labels"] = torch.tensor([20, 0])
    if config.time_cond_proj_dim:
        more["timestep_cond"] = tensors["timestep_cond"] = normal((2, config.time_cond_proj_dim), seed + 2)
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.tensor([[64, 48, 0, 0, 64, 48], [512, 768, 12, 7, 1024, 640]])
        added = {"text_embeds": normal((2, pooled), seed + 2), "time_ids": sizes}
        tensors.update(added)
        more["added_cond_kwargs"] = added
    tensors["noise_pred"] = network(sample, tensors["timestep"], context, **more).sample
    save(f"families/{name}/unet/golden", tensors)


def families():
    def mean(posterior, generator=None):
        return posterior.mean

    def case(name, seed, pipeline, runs, prediction="epsilon", **parts):
        """The model as its family's pipeline saves it, and what that makes of each of the `runs`."""
        folder = HERE / "families" / name
        shutil.rmtree(folder, ignore_errors=True)

        def words(part, pad):
            return tiny_tokenizer(folder / part, pad_token=pad)

        def text(model, end, **config):
            size = dict(vocab_size=714, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
            config = CLIPTextConfig(**{**size, "bos_token_id": 0, "eos_token_id": end, **config})
            return randomize(model(config), seed, torch.float16)

        unet = randomize(UNet2DConditionModel(**{**ORDINARY, **FAMILIES[name]}), seed, torch.float16)
        widths = [4, 4, 8] if name == "upscaler" else [4, 8]
        scaling = dict(scaling_factor=0.08333) if name == "upscaler" else {}
        parts |= dict(
            tokenizer=words("tokenizer", "<|endoftext|>"),
            text_encoder=text(CLIPTextModel, 713),
            unet=unet,
            vae=vae(seed, widths, norm_num_groups=4, **scaling),
            scheduler=PNDMScheduler(**SD1_SCHEDULER, prediction_type=prediction),
        )
        if name == "sdxl":
            # Old files say that the end token is 2.
            big = dict(hidden_size=24, hidden_act="gelu", projection_dim=12)
            parts["tokenizer_2"] = words("tokenizer_2", "!")
            parts["text_encoder_2"] = text(CLIPTextModelWithProjection, 2, **big)
        model = pipeline(**parts)
        model.to(torch.float16).save_pretrained(folder)
        model.to(torch.float32)
        model.set_progress_bar_config(disable=True)
        for part in folder.glob("tokenizer*"):
            (part / "vocab.json").unlink(missing_ok=True)
            (part / "merges.txt").unlink(missing_ok=True)
        config = folder / "scheduler" / "scheduler_config.json"
        settings = json.loads(config.read_text())
        del settings["timestep_spacing"]
        settings["clip_sample"] = False
        config.write_text(json.dumps(settings, indent=2) + "\n")
        unet_golden(name, unet, seed)
        single = ldm_state(unet, parts["vae"])
        if name == "sdxl":
            drawn = lambda like: torch.zeros(like.shape)
            single |= ldm_clip(parts["text_encoder"], "conditioner.embedders.0.transformer.")
            single |= open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model.", drawn)
        else:
            single |= ldm_clip(parts["text_encoder"])
        save_file({k: t.half().contiguous() for k, t in single.items()}, folder / "single.safetensors")

        for sampler, scheduler in [("ddim", DDIMScheduler), ("euler", EulerDiscreteScheduler)]:
            model.scheduler = scheduler.from_config(settings)
            save(f"families/{name}/{sampler}", {run: make_run(run, make, model) for run, make in runs.items()})

    def make_run(name, make, model):
        """A picture's latents are the mean of what the encoder says, if the run is not called otherwise."""
        if name.endswith("sampled"):
            return make(model)
        with patch.object(DiagonalGaussianDistribution, "sample", mean):
            return make(model)

    def latents(**arguments):
        return lambda model: model(**(PROMPTED | arguments), output_type="latent")[0]

    def seeds():
        return [seeded(5), seeded(6)]

    (HERE / "families").mkdir(exist_ok=True)
    picture = torch.rand((2, 3, 16, 8), generator=seeded(1))
    mask = (torch.rand((2, 1, 16, 8), generator=seeded(2)) > 0.4).float()
    depth = torch.rand((2, 9, 11), generator=seeded(3))
    negative = dict(negative_prompt=["blurry!"] * 2)
    save("families/pictures", {"picture": picture * 2 - 1, "mask": mask, "depth": depth.unsqueeze(1)})

    # Generators are used up: every run has its own.
    def run(**arguments):
        return lambda model: latents(generator=seeds(), **arguments)(model)

    size = dict(height=16, width=8)
    case(
        "sdxl",
        11,
        StableDiffusionXLPipeline,
        {
            "plain": run(**size, **negative),
            "no_negative": run(**size),
            "both_prompts": run(**size, **negative, prompt_2=["a fish", "flat"], negative_prompt_2=["a cat"] * 2),
            "sizes": run(**size, **negative, original_size=(40, 30), crops_coords_top_left=(3, 5), target_size=(16, 20)),
            "clip_skip": run(**size, **negative, clip_skip=1),
        },
        add_watermarker=False,
    )
    guess = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    area = dict(**size, image=picture, mask_image=mask)
    case(
        "inpainting",
        12,
        StableDiffusionInpaintPipeline,
        {
            "whole": run(**area, **negative),
            "part": run(**area, **negative, strength=0.6),
            "whole_sampled": run(**area, **negative),
            "part_sampled": run(**area, **negative, strength=0.6),
        },
        **guess,
    )
    case(
        "depth",
        13,
        StableDiffusionDepth2ImgPipeline,
        {
            "part": run(image=picture, depth_map=depth, strength=0.8, **negative),
            "part_sampled": run(image=picture, depth_map=depth, strength=0.8, **negative),
        },
        "v_prediction",
        depth_estimator=None,
        feature_extractor=None,
    )
    small = torch.rand((2, 3, 8, 12), generator=seeded(4))
    save("families/small", {"small": small * 2 - 1})
    case(
        "upscaler",
        14,
        StableDiffusionUpscalePipeline,
        {"plain": run(image=small, noise_level=20, **negative)},
        "v_prediction",
        low_res_scheduler=DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        max_noise_level=25,
    )
    case("lcm", 15, StableDiffusionPipeline, {"plain": run(**size)}, **guess)
    # The same network by its own pipelines and sampler.
    ordinary = StableDiffusionPipeline.from_pretrained(HERE / "families" / "lcm", torch_dtype=torch.float32)
    scheduler = LCMScheduler.from_config(ordinary.scheduler.config)
    parts = dict(ordinary.components, scheduler=scheduler, requires_safety_checker=False)
    text, image = LatentConsistencyModelPipeline(**parts), LatentConsistencyModelImg2ImgPipeline(**parts)
    for model in [text, image]:
        model.set_progress_bar_config(disable=True)
    few = dict(num_inference_steps=4, guidance_scale=8.0)
    part = dict(image=picture, strength=0.6)
    tensors = {
        "twenty": make_run("twenty", run(**size), text),
        "four": make_run("four", run(**size, **few), text),
        "picture": make_run("picture", run(**part), image),
        "picture_sampled": make_run("picture_sampled", run(**part), image),
    }
    save("families/lcm/lcm", tensors)

    # Tasks of an ordinary model.
    ordinary = StableDiffusionPipeline.from_pretrained(HERE / "pipeline" / "sd1", torch_dtype=torch.float32)
    for sampler, scheduler in [("ddim", DDIMScheduler), ("euler", EulerDiscreteScheduler)]:
        ordinary.scheduler = scheduler.from_config(ordinary.scheduler.config)
        parts = dict(ordinary.components, requires_safety_checker=False)
        tensors = {}
        for name, pipeline, strength in [
            ("picture", StableDiffusionImg2ImgPipeline, 0.75),
            ("picture_sampled", StableDiffusionImg2ImgPipeline, 0.75),
            ("whole_area", StableDiffusionInpaintPipeline, 1.0),
            ("part_of_area", StableDiffusionInpaintPipeline, 0.75),
        ]:
            model = pipeline(**parts)
            model.set_progress_bar_config(disable=True)
            more = dict(mask_image=mask, **size) if pipeline is StableDiffusionInpaintPipeline else {}
            tensors[name] = make_run(name, run(image=picture, strength=strength, **more, **negative), model)
        save(f"families/{sampler}", tensors)
def loras():
    """Low-rank changes of two small models in every spelling, and the weights that diffusers merges from them."""
    # transformers asks for a newer peft than there is.
    transformers.integrations.peft.check_peft_version = lambda min_version: None
    shutil.rmtree(HERE / "lora", ignore_errors=True)
    (HERE / "lora").mkdir()
    layers = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
    layers += ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv_in", "conv_out"]
    sampling = ["downsamplers.0.conv", "upsamplers.0.conv", "time_embedding.linear_1", "time_embedding.linear_2"]
    text = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]

    def open_model(name):
        folder, kind = {
            "sd1": (HERE / "pipeline" / "sd1", StableDiffusionPipeline),
            "sdxl": (HERE / "families" / "sdxl", StableDiffusionXLPipeline),
        }[name]
        return kind.from_pretrained(folder, torch_dtype=torch.float32)

    def parts(model):
        names = ["unet", "text_encoder", "text_encoder_2"]
        return {name: getattr(model, name) for name in names if getattr(model, name, None) is not None}

    def merged(name, state, strength):
        model = open_model(name)
        before = {part: dict(network.state_dict()) for part, network in parts(model).items()}
        before = {part: {k: v.clone() for k, v in weights.items()} for part, weights in before.items()}
        model.load_lora_weights(state if isinstance(state, Path) else dict(state))
        model.fuse_lora(components=list(before), lora_scale=strength)
        model.unload_lora_weights()
        out = {}
        for part, network in parts(model).items():
            for key, weight in network.state_dict().items():
                if not torch.equal(weight, before[part][key]):
                    out[f"{part}.{key}"] = weight.contiguous()
        return out

    def adapters(model, seed, rank, alpha, **more):
        for part, network in parts(model).items():
            targets = [*layers, *sampling] if part == "unet" else text
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **more)
            network.add_adapter(config)
            generator = seeded(seed)
            for key, tensor in network.named_parameters():
                if "lora_" in key:
                    spread = 0.3 if "lora_A" in key else 0.3 / rank
                    tensor.data = (torch.randn(tensor.shape, generator=generator) * spread).half().float()
        return {part: get_peft_model_state_dict(network) for part, network in parts(model).items()}

    def kohya(states, config, ldm, alpha):
        """kohya's spelling, of SDXL with latent-diffusion's block names."""
        out = {}
        short = {"unet": "unet", "text_encoder": "te1" if ldm else "te", "text_encoder_2": "te2"}
        for part, state in states.items():
            for key, tensor in state.items():
                layer, factor = key.removesuffix(".weight").rsplit(".", 1)
                if part == "unet" and ldm:
                    layer = ldm_unet(f"{layer}.weight", config).removesuffix(".weight")
                if part != "unet" and not layer.startswith("text_model."):
                    layer = f"text_model.{layer}"
                layer = f"lora_{short[part]}_{layer.replace('.', '_')}"
                out[f"{layer}.{dict(lora_A='lora_down', lora_B='lora_up')[factor]}.weight"] = tensor.half()
                out[f"{layer}.alpha"] = torch.tensor(float(alpha))
        return out

    def oldest(states):
        """What diffusers wrote first: attention alone, as its processors' tensors."""
        out = {}
        for part, state in states.items():
            for key, tensor in state.items():
                layer, factor = key.removesuffix(".weight").rsplit(".", 1)
                if ".attn" not in layer and ".self_attn" not in layer:
                    continue
                scope, name = layer.rsplit(".", 1) if part != "unet" else layer.replace("to_out.0", "to_out").rsplit(".", 1)
                way = dict(lora_A="down", lora_B="up")[factor]
                if part == "unet":
                    out[f"unet.{scope}.processor.{name}_lora.{way}.weight"] = tensor.half()
                else:
                    out[f"{part}.text_model.{scope}.{name}.lora_linear_layer.{way}.weight"] = tensor.half()
        return out

    # An SD 1 file of each spelling, with alphas of which none is the rank.
    model = open_model("sd1")
    states = adapters(model, 21, 3, 2)
    StableDiffusionPipeline.save_lora_weights(
        HERE / "lora",
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=states["text_encoder"],
        unet_lora_adapter_metadata=model.unet.peft_config["default"].to_dict(),
        text_encoder_lora_adapter_metadata=model.text_encoder.peft_config["default"].to_dict(),
        weight_name="sd1_diffusers.safetensors",
    )
    save_file(kohya(states, model.unet.config, False, 2), HERE / "lora" / "sd1_kohya.safetensors")
    save_file(oldest(states), HERE / "lora" / "sd1_oldest.safetensors")
    # PEFT's own folder: of the U-Net alone, ranks and alphas of their own for some layers, scaled by the root.
    model = open_model("sd1")
    pattern = dict(rank_pattern={"attn2.to_k": 2}, alpha_pattern={"attn2.to_k": 5}, use_rslora=True)
    states = {"unet": adapters(model, 22, 3, 4, **pattern)["unet"]}
    folder = HERE / "lora" / "sd1_peft"
    folder.mkdir()
    save_file(
        {f"base_model.model.{key}": tensor.half() for key, tensor in states["unet"].items()},
        folder / "adapter_model.safetensors",
    )
    config = model.unet.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
    model.unet.fuse_lora(lora_scale=0.7)
    model.unet.unload_lora()
    before = open_model("sd1").unet.state_dict()
    after = model.unet.state_dict()
    changed = {f"unet.{k}": v for k, v in after.items() if not torch.equal(v, before[k])}
    save("lora/sd1_peft/merged", dict(list(changed.items())[::3]))

    model = open_model("sdxl")
    states = adapters(model, 23, 2, 1)
    save_file(kohya(states, model.unet.config, True, 1), HERE / "lora" / "sdxl_kohya.safetensors")
    for name in ["sd1_diffusers", "sd1_kohya", "sd1_oldest", "sdxl_kohya"]:
        out = merged(name.split("_")[0], HERE / "lora" / f"{name}.safetensors", 0.7)
        print(name, len(out), "tensors changed")
        if name == "sd1_kohya":
            other = load_file(HERE / "lora" / "sd1_diffusers_merged.safetensors")
            assert all(torch.allclose(out[k], weight, atol=1e-6) for k, weight in other.items())
        else:
            # Every third: the spellings are compared with each other in all of them.
            save(f"lora/{name}_merged", dict(list(out.items())[::3]))


def sdxl_variants():
    """SDXL's small model with prompts that change over the steps, and with a U-Net that is told the guidance scale."""
    folder, size = HERE / "families" / "sdxl", dict(height=16, width=8)
    negative = dict(negative_prompt=["blurry!"] * 2)
    plain = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32, add_watermarker=False)
    unet = UNet2DConditionModel.from_config(plain.unet.config, time_cond_proj_dim=6)
    cond_proj = normal([4, 6], 16).half()
    weights = {**plain.unet.state_dict(), "time_embedding.cond_proj.weight": cond_proj.float()}
    unet.load_state_dict(weights)
    distilled = StableDiffusionXLPipeline(**{**plain.components, "unet": unet.eval()}, add_watermarker=False)
    others = dict(prompt=["a fish", "flat"], device="cpu", num_images_per_prompt=1)

    def changing(model, guided):
        """The other prompts from the eleventh of the twenty steps on."""
        both = model.encode_prompt(**others, do_classifier_free_guidance=guided, **(negative if guided else {}))
        cond, uncond, pooled, pooled_uncond = both
        later = dict(
            prompt_embeds=torch.cat([uncond, cond]) if guided else cond,
            add_text_embeds=torch.cat([pooled_uncond, pooled]) if guided else pooled,
        )
        return lambda pipe, i, t, held: later if i == 9 else held

    tensors = {"cond_proj": cond_proj}
    for model, name in [(plain, "plain"), (distilled, "distilled")]:
        model.set_progress_bar_config(disable=True)
        guided = name == "plain"
        for sampler, scheduler in [("ddim", DDIMScheduler), ("euler", EulerDiscreteScheduler)]:
            model.scheduler = scheduler.from_config(plain.scheduler.config)
            asked = {**PROMPTED, **size, **(negative if guided else {}), "output_type": "latent"}
            change = dict(
                callback_on_step_end=changing(model, guided),
                callback_on_step_end_tensor_inputs=["prompt_embeds", "add_text_embeds"],
            )
            for run, more in [("same", {}), ("changing", change)]:
                generators = [seeded(5), seeded(6)]
                tensors[f"{name}/{run}/{sampler}"] = model(**asked, **more, generator=generators)[0]
    save("families/sdxl_variants", tensors)


def ldm_unet(name, config):
    """latent-diffusion's name of a U-Net's tensor."""
    layers, parts = config.layers_per_block, name.split(".")
    resnet = dict(norm1="in_layers.0", conv1="in_layers.2", time_emb_proj="emb_layers.1")
    resnet |= dict(norm2="out_layers.0", conv2="out_layers.3", conv_shortcut="skip_connection")
    embeddings = {"linear_1": "0", "linear_2": "2", "cond_proj": "cond_proj"}
    match parts:
        case ["conv_in", end]:
            return f"input_blocks.0.0.{end}"
        case ["conv_norm_out", end]:
            return f"out.0.{end}"
        case ["conv_out", end]:
            return f"out.2.{end}"
        case ["time_embedding", layer, end]:
            return f"time_embed.{embeddings[layer]}.{end}"
        case ["add_embedding", layer, end]:
            return f"label_emb.0.{embeddings[layer]}.{end}"
        case ["class_embedding", end]:
            return f"label_emb.{end}"
        case ["mid_block", "resnets", i, layer, end]:
            return f"middle_block.{2 * int(i)}.{resnet[layer]}.{end}"
        case ["mid_block", "attentions", "0", *rest]:
            return ".".join(["middle_block.1", *rest])
        case [side, level, "downsamplers", "0", "conv", end]:
            return f"input_blocks.{(int(level) + 1) * (layers + 1)}.0.op.{end}"
        case [side, level, "upsamplers", "0", "conv", end]:
            attends = config.up_block_types[int(level)].startswith("CrossAttn")
            return f"output_blocks.{(int(level) + 1) * (layers + 1) - 1}.{1 + attends}.conv.{end}"
        case [side, level, "resnets" | "attentions" as kind, j, *rest]:
            i = int(level) * (layers + 1) + int(j)
            block = f"input_blocks.{i + 1}" if side == "down_blocks" else f"output_blocks.{i}"
            if kind == "attentions":
                return ".".join([block, "1", *rest])
            return f"{block}.0.{resnet[rest[0]]}.{rest[1]}"
    raise ValueError(name)


def ldm_vae(name, config):
    """latent-diffusion's name of an autoencoder's tensor."""
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
    last = len(config.block_out_channels) - 1
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    match name.split("."):
        case [side, "mid_block", "resnets", i, *rest]:
            return ".".join([side, "mid", f"block_{int(i) + 1}", *rest])
        case [side, "mid_block", "attentions", "0", layer, *rest]:
            return ".".join([side, "mid.attn_1", attention[layer], rest[-1]])
        case [side, blocks, level, "resnets", j, *rest]:
            way, level = ("down", level) if side == "encoder" else ("up", last - int(level))
            return ".".join([side, way, str(level), "block", j, *rest])
        case [side, blocks, level, samplers, "0", *rest]:
            way, level = ("down", level) if side == "encoder" else ("up", last - int(level))
            return ".".join([side, way, str(level), f"{way}sample", *rest])
    return name


def ldm_state(unet, vae):
    """The tensors of both networks as a single file has them; attention in the VAE is 1x1 convolutions there."""
    state = {f"model.diffusion_model.{ldm_unet(n, unet.config)}": t for n, t in unet.state_dict().items()}
    for name, tensor in vae.state_dict().items():
        if "attentions" in name and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]
        state[f"first_stage_model.{ldm_vae(name, vae.config)}"] = tensor
    # diffusers' own reading of these names gives the networks back; it knows none for the guidance scale.
    back = convert_ldm_unet_checkpoint(state, dict(unet.config))
    back |= {n: t for n, t in unet.state_dict().items() if n == "time_embedding.cond_proj.weight"}
    assert back.keys() == unet.state_dict().keys()
    assert all(back[n] is t or back[n].device.type == "meta" or back[n].equal(t) for n, t in unet.state_dict().items())
    back = convert_ldm_vae_checkpoint(state, dict(vae.config))
    assert back.keys() == vae.state_dict().keys()
    return state


def ldm_clip(text, prefix="cond_stage_model.transformer."):
    names = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in text.state_dict().items()}
    return {prefix + name: tensor for name, tensor in names.items()}


def open_clip(text, prefix, drawn, last=None):
    """OpenCLIP's names and its fused queries, keys and values; `last`: a further layer, which SD 2.x leaves out."""
    inner = dict(layer_norm1="ln_1", layer_norm2="ln_2", fc1="mlp.c_fc", fc2="mlp.c_proj", out_proj="attn.out_proj")
    state, fused = {}, {}
    layers = text.config.num_hidden_layers
    for name, tensor in text.state_dict().items():
        match name.removeprefix("text_model.").split("."):
            case ["embeddings", "token_embedding", end]:
                state[f"token_embedding.{end}"] = tensor
            case ["embeddings", "position_embedding", "weight"]:
                state["positional_embedding"] = tensor
            case ["final_layer_norm", end]:
                state[f"ln_final.{end}"] = tensor
            case ["text_projection", "weight"]:
                state["text_projection"] = tensor.T
            case ["encoder", "layers", i, *_, layer, end]:
                block = f"transformer.resblocks.{i}"
                if layer in ["q_proj", "k_proj", "v_proj"]:
                    fused.setdefault(f"{block}.attn.in_proj_{end}", {})[layer] = tensor
                else:
                    state[f"{block}.{inner[layer]}.{end}"] = tensor
    for key, parts in fused.items():
        state[key] = torch.cat([parts[name] for name in ["q_proj", "k_proj", "v_proj"]])
    if last:
        one = f"transformer.resblocks.{layers - 1}."
        more = {k.replace(one, f"transformer.resblocks.{layers}."): drawn(t) for k, t in state.items() if one in k}
        state |= more | {"text_projection": drawn(state["positional_embedding"][: text.config.hidden_size])}
    state["logit_scale"] = drawn(torch.ones(()))
    return {prefix + key: tensor for key, tensor in state.items()}


class Pools:
    """Weights that are windows of two short rows of numbers: a file of them is small, and full of strides."""

    def __init__(self, seed):
        self.generator = seeded(seed)
        self.around_0 = (normal((60000,), seed) * 0.08).half()
        self.around_1 = (normal((2000,), seed + 1) * 0.2 + 1).half()

    def draw(self, like, name=""):
        pool = self.around_1 if "norm" in name and name.endswith("weight") or like.dim() == 0 else self.around_0
        strides, span = [], 1
        for side in reversed(like.shape):
            most = max(1, (len(pool) - span) // max(1, side) // 2)
            step = 1 if side > 10000 else int(torch.randint(1, min(most, 400) + 1, (), generator=self.generator))
            strides.insert(0, step)
            span += (side - 1) * step
        offset = int(torch.randint(0, len(pool) - span + 1, (), generator=self.generator))
        return pool.as_strided(like.shape, strides, offset)

    def fill(self, network):
        """Gives a network such weights, rounded to f16, and says which."""
        drawn = {name: self.draw(tensor, name) for name, tensor in network.state_dict().items()}
        network.load_state_dict({name: tensor.float() for name, tensor in drawn.items()})
        network.eval().requires_grad_(False)
        return drawn


def meta(make):
    with torch.device("meta"):
        return make()


class Views:
    """A network's configuration with the windows that are its tensors."""

    def __init__(self, network, tensors):
        self.config, self.tensors = network.config, tensors

    def state_dict(self):
        return self.tensors


def small_checkpoints():
    folder = HERE / "checkpoint"
    folder.mkdir(exist_ok=True)

    def case(name, seed, prediction, pad, unet, text, wrap):
        tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, pad_token=pad)
        pools = Pools(seed)
        types = lambda with_, without, side: [with_ if a else without for a in side]
        attends = unet.pop("attends")
        unet = UNet2DConditionModel(
            sample_size=64,
            down_block_types=types("CrossAttnDownBlock2D", "DownBlock2D", attends),
            up_block_types=types("CrossAttnUpBlock2D", "UpBlock2D", attends[::-1]),
            cross_attention_dim=text["hidden_size"],
            **unet,
        )
        autoencoder = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            block_out_channels=[32, 32, 64],
            layers_per_block=1,
            latent_channels=4,
        )
        encoder = CLIPTextModel(
            CLIPTextConfig(vocab_size=49408, intermediate_size=96, bos_token_id=49406, eos_token_id=49407, **text)
        )
        views = [Views(network, pools.fill(network)) for network in [unet, autoencoder, encoder]]
        state = ldm_state(*views[:2])
        if name == "sd2":
            state |= open_clip(views[2], "cond_stage_model.model.", pools.draw, last=True)
        else:
            state |= ldm_clip(views[2])
            state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
            state["model_ema.decay"] = torch.tensor(0.9999)
            state["model_ema.num_updates"] = torch.tensor(7, dtype=torch.int32)
        state["betas"] = torch.linspace(0.1, 0.2, 5, dtype=torch.float64)
        torch.save(wrap(state), folder / f"{name}.ckpt")

        parts = dict(tokenizer=tokenizer, text_encoder=encoder, unet=unet, vae=autoencoder)
        scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        )
        model = pipeline(dict(parts, scheduler=scheduler))
        ids = tokenizer(["a red star!"], padding="max_length", max_length=77, return_tensors="pt").input_ids
        latents = normal((1, 4, 8, 6), seed)
        image = torch.rand((1, 3, 32, 24), generator=seeded(seed)) * 2 - 1
        tensors = {
            "ids": ids,
            "context": encoder(ids).last_hidden_state,
            "latents": latents,
            "image": image,
            "mean": autoencoder.encode(image).latent_dist.mean,
            "decoded": autoencoder.decode(latents / 0.18215).sample,
        }
        tensors["noise_pred"] = unet(latents, torch.tensor([501]), tensors["context"]).sample
        tensors["final"] = model(
            ["a red star!"],
            negative_prompt=["blurry"],
            latents=latents,
            height=32,
            width=24,
            num_inference_steps=5,
            guidance_scale=5.0,
            output_type="latent",
        ).images
        save(f"checkpoint/{name}", tensors)

    lightning = lambda state: {"epoch": 3, "global_step": 470000, "state_dict": state, "callbacks": {}}
    case(
        "sd1",
        1,
        "epsilon",
        "<|endoftext|>",
        dict(block_out_channels=[32, 32, 64], attends=[True, True, False], layers_per_block=2, attention_head_dim=8),
        dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=1, hidden_act="quick_gelu"),
        lightning,
    )
    case(
        "sd2",
        2,
        "v_prediction",
        "!",
        dict(
            block_out_channels=[64, 128],
            attends=[True, True],
            layers_per_block=1,
            attention_head_dim=[1, 2],
            use_linear_projection=True,
        ),
        dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu"),
        lambda state: state,
    )


# The published configurations of the full-size networks, as far as they differ from each other.
CROSS = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
CROSS_UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
WIDE = dict(block_out_channels=[320, 640, 1280, 1280], down_block_types=CROSS, up_block_types=CROSS_UP, sample_size=64)
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
CLIP_H = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")
CLIP_G = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu")
SD2 = dict(attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True)
XL = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    use_linear_projection=True,
    sample_size=128,
)
FULL_SIZE = {
    "sd1": (dict(WIDE, attention_head_dim=8, cross_attention_dim=768), CLIP_L, None, 0.18215),
    "sd2": (dict(WIDE, **SD2), CLIP_H, None, 0.18215),
    "sdxl": (
        dict(
            XL,
            block_out_channels=[320, 640, 1280],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            projection_class_embeddings_input_dim=2816,
        ),
        CLIP_L,
        CLIP_G,
        0.13025,
    ),
    "refiner": (
        dict(
            XL,
            block_out_channels=[384, 768, 1536, 1536],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            transformer_layers_per_block=4,
            attention_head_dim=[6, 12, 24, 24],
            cross_attention_dim=1280,
            projection_class_embeddings_input_dim=2560,
        ),
        None,
        CLIP_G,
        0.13025,
    ),
    "x4": (
        dict(
            in_channels=7,
            block_out_channels=[256, 512, 512, 1024],
            down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
            up_block_types=["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
            attention_head_dim=8,
            cross_attention_dim=1024,
            num_class_embeds=1000,
            only_cross_attention=[True, True, True, False],
            use_linear_projection=True,
            sample_size=128,
        ),
        CLIP_H,
        None,
        0.08333,
    ),
}


def full_size_keys():
    """The keys and shapes of full-size single files, and the configurations that they must be read as."""
    families = {}
    for name, (unet, clip, second, scaling_factor) in FULL_SIZE.items():
        widths = [128, 256, 512] if name == "x4" else [128, 256, 512, 512]
        vae_config = dict(block_out_channels=widths, layers_per_block=2, latent_channels=4, norm_num_groups=32)
        network = meta(lambda: UNet2DConditionModel(**{"in_channels": 4, **unet}))
        autoencoder = meta(
            lambda: AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * len(widths),
                up_block_types=["UpDecoderBlock2D"] * len(widths),
                **vae_config,
            )
        )
        state = ldm_state(network, autoencoder)
        configs = {"unet": unet, "vae": dict(vae_config, scaling_factor=scaling_factor)}
        pass_on = lambda tensor: tensor
        if clip:
            clip = {"hidden_act": "quick_gelu", "vocab_size": 49408, **clip}
            text = meta(lambda: CLIPTextModel(CLIPTextConfig(**clip)))
            configs["text_encoder"] = clip
            if second:
                state |= ldm_clip(text, "conditioner.embedders.0.transformer.")
            elif clip["hidden_act"] == "gelu":
                state |= open_clip(text, "cond_stage_model.model.", pass_on, last=True)
            else:
                state |= ldm_clip(text)
        if second:
            second = dict(second, vocab_size=49408, projection_dim=1280)
            text = meta(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**second)))
            configs["text_encoder_2"] = second
            state |= open_clip(text, f"conditioner.embedders.{int(bool(clip))}.model.", pass_on)
        # Every key but for what it shares with the one before: how many letters, the rest, the shape.
        lines, before = [], ""
        for key in sorted(state):
            shared = next((i for i, (a, b) in enumerate(zip(before, key)) if a != b), min(len(before), len(key)))
            lines.append(" ".join([str(shared), key[shared:], "x".join(map(str, state[key].shape)) or "-"]))
            before = key
        families[name] = {"configs": configs, "keys": lines}
    (HERE / "checkpoint" / "families.json").write_text(json.dumps(families, indent=0) + "\n")


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Stranger:
    pass


def odd_files():
    """Files of torch that are good in an unusual way, and files that must be refused."""
    folder = HERE / "checkpoint" / "odd"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    base = torch.arange(24.0).reshape(2, 3, 4)
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]
    kinds += [torch.int16, torch.int8, torch.uint8, torch.bool]
    tensors = {str(kind).removeprefix("torch."): torch.tensor([[0, 1, 2], [3, 4, 5]]).to(kind) for kind in kinds}
    tensors |= {
        "view": base[1, 1:],
        "transposed": base.permute(2, 0, 1),
        "expanded": base[0, 0, :3, None].expand(3, 5),
        "stepped": base.flatten()[1::5],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.tensor([1.5, -2.5])),
    }
    save("checkpoint/odd/tensors", {name: tensor.detach().clone() for name, tensor in tensors.items()})
    torch.save(tensors, folder / "tensors.ckpt")

    # As pytorch-lightning leaves one: a module's state with its versions, an optimizer, numpy's numbers.
    network = torch.nn.Linear(3, 2)
    network.load_state_dict({"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([7.0, 8.0])})
    lightning = ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    lightning.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": lightning.__name__})
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    callbacks = {lightning.ModelCheckpoint: {"best_model_score": np.float32(0.5), "monitor": "val", "seen": {1, 2}}}
    checkpoint = {
        "epoch": 1,
        "global_step": 875000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": network.state_dict(),
        "callbacks": callbacks,
        "optimizer_states": [optimizer],
        "lr_schedulers": [],
        "huge": 2**80,
        "bytes": b"\xff\x00",
        "nothing": None,
    }
    package = ModuleType("pytorch_lightning")
    with patch.dict(sys.modules, {package.__name__: package, lightning.__name__: lightning}):
        torch.save(checkpoint, folder / "lightning.ckpt")

    weight = {"weight": torch.zeros(2)}
    for name, evil in [
        ("system", Evil(os.system, "touch diffuscope-was-here")),
        ("eval", Evil(eval, "1 + 1")),
        ("getattr", Evil(getattr, [], "append")),
        ("class", Stranger()),
        ("storage", torch.zeros(2, dtype=torch.complex64)),
    ]:
        torch.save({**weight, "evil": evil}, folder / f"{name}.ckpt")
    torch.save(weight, folder / "legacy.ckpt", _use_new_zipfile_serialization=False)
    (folder / "pickle.ckpt").write_bytes(pickle.dumps({"weight": [1.0, 2.0]}))
    with tarfile.open(folder / "tar.ckpt", "w") as archive:
        archive.add(Path(__file__).parent / "requirements.txt", "pickle")
    with zipfile.ZipFile(folder / "tensors.ckpt") as stored, zipfile.ZipFile(
        folder / "deflated.ckpt", "w", zipfile.ZIP_DEFLATED
    ) as deflated:
        for entry in stored.namelist():
            deflated.writestr(entry, stored.read(entry))
    with zipfile.ZipFile(folder / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/data.pkl", zipfile.ZipFile(folder / "tensors.ckpt").read("tensors/data.pkl"))
        bomb.writestr("a/data/0", bytes(10 << 20))
    with zipfile.ZipFile(folder / "tensors.ckpt") as good, zipfile.ZipFile(folder / "big_endian.ckpt", "w") as big:
        for entry in good.namelist():
            big.writestr(entry, b"big" if entry.endswith("byteorder") else good.read(entry))


def checkpoints():
    small_checkpoints()
    full_size_keys()
    odd_files()


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = [signatures, schedules, timesteps, samplers, configs, guidance, tokenizer, added_tokens, pictures, noise, text_encoders, text_projections, unets, vaes, vae_tiles]
    for part in [*parts, pipelines, families, sdxl_variants, loras, checkpoints]:
        if not sys.argv[1:] or part.__name__ in sys.argv[1:]:
            print(part.__name__)
            part()
