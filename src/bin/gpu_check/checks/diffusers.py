"""The seconds of guided DDIM steps of Stable Diffusion 1.5's U-Net with random weights in f16, by diffusers.

    diffusers.py DEVICE STEPS
"""

import sys
import time

import diffusers
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

device, steps = torch.device(sys.argv[1]), int(sys.argv[2])
with device:
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).half().eval()
scheduler = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
    steps_offset=1,
)


def wait():
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def draw(steps):
    """The seconds of a picture's steps."""
    context = torch.randn((2, 77, 768), device=device, dtype=torch.float16)
    x = torch.randn((1, 4, 64, 64), device=device, dtype=torch.float16)
    scheduler.set_timesteps(steps, device=device)
    wait()
    started = time.perf_counter()
    for t in scheduler.timesteps:
        uncond, cond = unet(torch.cat([x, x]), t, encoder_hidden_states=context).sample.chunk(2)
        x = scheduler.step(uncond + 7.5 * (cond - uncond), t, x).prev_sample
    wait()
    return time.perf_counter() - started


with torch.no_grad():
    draw(min(steps, 5))
    print(draw(steps), f"diffusers {diffusers.__version__}, torch {torch.__version__}")
