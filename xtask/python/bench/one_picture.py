"""One picture by diffusers, as a script: what `diffuscope generate` is compared with as a whole process."""

import sys

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

folder, dtype, device, steps, out = sys.argv[1:]
dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.set_progress_bar_config(disable=True)
generator = torch.Generator("cpu").manual_seed(0)
prompt = "a red apple on the grass, cartoon"
pipe(prompt, num_inference_steps=int(steps), guidance_scale=5.0, generator=generator).images[0].save(out)
