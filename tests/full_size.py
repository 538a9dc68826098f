"""Holds full-size models against diffusers and transformers, stage by stage.

    pip install -r tests/golden/requirements.txt
    cargo build --release --example stages
    python tests/full_size.py                     everything, in f32 and bf16
    python tests/full_size.py --only sd15 --dtype f32 --keep /tmp/full

The published configurations of Stable Diffusion 1.5 and 2.1 (768-v) with random weights, written by
diffusers: folders in f32 and in f16, and SD 1.5 also as one .safetensors and one .ckpt file. The text
embedding, one U-Net pass at 64x64 and encoding and decoding 512x512 must lie within 1e-4 of the largest
magnitude in f32 and within 2e-2 in bf16. Loading the f16 folder to f32 must take at most the weights'
size in f32 and a tenth; peaks are those that Linux counts of the whole process. Needs about 12 GB of memory and 20 GB of disk.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "golden"))
import make  # noqa: E402
from reference import SD1_SCHEDULER, SD2_SCHEDULER, TOKENIZER, pipeline, roughen, seeded  # noqa: E402

CLIP = dict(vocab_size=49408, bos_token_id=49406, eos_token_id=49407)
TEXT = {
    "sd15": dict(
        CLIP, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        hidden_act="quick_gelu", projection_dim=768,
    ),
    "sd21v": dict(
        CLIP, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
        hidden_act="gelu", projection_dim=512,
    ),
}
UNET = {
    "sd15": dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
    "sd21v": dict(
        sample_size=96, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20],
        use_linear_projection=True, upcast_attention=True,
    ),
}
VAE = dict(
    block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, latent_channels=4, sample_size=512,
)
TOLERANCE = {"f32": 1e-4, "bf16": 2e-2}


def build(name, seed):
    """The pipeline, with weights that are rounded to f16: files in either dtype hold the same model."""
    networks = [
        CLIPTextModel(CLIPTextConfig(**TEXT[name])), UNet2DConditionModel(**UNET[name]), AutoencoderKL(**VAE)
    ]
    text, unet, vae = (roughen(network, seed + i).half().float() for i, network in enumerate(networks))
    pad = dict(sd15="<|endoftext|>", sd21v="!")[name]
    scheduler = dict(sd15=PNDMScheduler(**SD1_SCHEDULER), sd21v=DDIMScheduler(**SD2_SCHEDULER))[name]
    return pipeline(text, unet, vae, CLIPTokenizer.from_pretrained(TOKENIZER, pad_token=pad), scheduler)


@torch.no_grad()
def reference(pipe, inputs):
    made, times = {}, {}

    def timed(stage, run):
        start = time.monotonic()
        out = run()
        times[stage] = time.monotonic() - start
        return out

    made["context"] = timed("text encoder", lambda: pipe.text_encoder(inputs["ids"])[0])
    made["noise_pred"] = timed(
        "U-Net", lambda: pipe.unet(inputs["sample"], inputs["timestep"], made["context"]).sample
    )
    made["mean"] = timed("VAE encoder", lambda: pipe.vae.encode(inputs["image"]).latent_dist.mean)
    scaled = inputs["latents"] / pipe.vae.config.scaling_factor
    made["decoded"] = timed("VAE decoder", lambda: pipe.vae.decode(scaled).sample)
    return made, times


def draw(pipe, seed):
    prompt = "a photograph of an astronaut riding a horse, (très détaillé:1.2)"
    ids = pipe.tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    normal = lambda *shape: torch.randn(shape, generator=seeded(seed))
    return dict(
        ids=ids, sample=normal(1, 4, 64, 64), timestep=torch.tensor([501]),
        image=torch.rand((1, 3, 512, 512), generator=seeded(seed)) * 2 - 1, latents=normal(1, 4, 64, 64),
    )


def write(pipe, name, folder):
    """Every form of the model, with the factor by which loading it to f32 may pass the size in f32."""
    paths = {"folder f32": folder / name, "folder f16": folder / f"{name}-f16"}
    pipe.save_pretrained(paths["folder f32"])
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]:
        target = paths["folder f16"] / part
        if part in ["tokenizer", "scheduler"]:
            getattr(pipe, part).save_pretrained(target)
            continue
        network = getattr(pipe, part)
        network.half().save_pretrained(target, variant="fp16")
        network.float()
    (paths["folder f16"] / "model_index.json").write_text((paths["folder f32"] / "model_index.json").read_text())
    if name == "sd15":
        state = make.ldm_state(pipe.unet, pipe.vae) | make.ldm_clip(pipe.text_encoder)
        state = {key: tensor.half().contiguous() for key, tensor in state.items()}
        paths["one .safetensors"] = folder / f"{name}.safetensors"
        save_file(state, paths["one .safetensors"])
        paths["one .ckpt"] = folder / f"{name}.ckpt"
        torch.save({"state_dict": state, "global_step": 1}, paths["one .ckpt"])
    return paths


def run(program, path, dtype, folder):
    """The program's outputs, its report, and the most memory that it had taken after each stage, in GB."""
    out = folder / "out.safetensors"
    out.unlink(missing_ok=True)
    command = [program, path, folder / "inputs.safetensors", out, dtype]
    report = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    peaks = {line[:13].strip(): float(line.split("peak ")[1].split(" GB")[0]) for line in report.splitlines()}
    return load_file(out), report, peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/examples/stages")
    parser.add_argument("--only", choices=TEXT, help="one of the models")
    parser.add_argument("--dtype", choices=TOLERANCE, nargs="*", default=list(TOLERANCE))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the checkpoints")
    args = parser.parse_args()
    failed = []
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.keep) as work:
        work = Path(work)
        for name in [args.only] if args.only else TEXT:
            pipe = build(name, args.seed)
            sizes = [sum(p.numel() for p in getattr(pipe, part).parameters()) for part in ["text_encoder", "unet", "vae"]]
            print(f"{name}: {sum(sizes) / 1e6:.1f} M parameters, {sum(sizes) * 4 / 1e9:.2f} GB in f32")
            inputs = draw(pipe, args.seed)
            save_file(inputs, work / "inputs.safetensors")
            paths = write(pipe, name, args.keep or work)
            expected, times = reference(pipe, inputs)
            del pipe
            print("  diffusers:", ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in times.items()))
            for dtype in args.dtype:
                for form, path in paths.items():
                    if dtype != "f32" and form != "folder f16":
                        continue
                    got, report, peaks = run(args.program, path, dtype, work)
                    print(f"  {form}, computed in {dtype}: peak memory {max(peaks.values()):.2f} GB")
                    print("".join(f"    {line}\n" for line in report.splitlines()), end="")
                    for stage, tensor in expected.items():
                        gap = ((got[stage] - tensor).abs().max() / tensor.abs().max()).item()
                        good = gap <= TOLERANCE[dtype]
                        print(f"    {stage}: {gap:.1e} apart, allowed {TOLERANCE[dtype]:.0e}{'' if good else '  FAILED'}")
                        failed += [] if good else [f"{name}, {form}, {dtype}, {stage}"]
                    if form == "folder f16" and dtype == "f32":
                        allowed = sum(sizes) * 4 * 1.1 / 1e9
                        good = peaks["loading"] <= allowed
                        print(f"    peak while loading: {peaks['loading']:.2f} GB, allowed {allowed:.2f} GB"
                              f"{'' if good else '  FAILED'}")
                        failed += [] if good else [f"{name}, memory"]
    sys.exit("\n".join(["failed:", *failed]) if failed else 0)


if __name__ == "__main__":
    main()
