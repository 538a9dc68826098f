"""What every Python contestant of `cargo xtask bench` has in common: the protocol, and the works in diffusers' terms.

A line of JSON on the standard input asks, a line on the standard output answers; docs/bench.md describes both. A
contestant differs from diffusers in how it runs a network: `adapt` takes a module and example inputs and returns what
is called in its place.
"""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

PROMPT = "a red apple on the grass, cartoon"
SCALE = 5.0
SCALES = [0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0]
STEPS_OF_A_RUN = 10
TRAINING_STEPS_OF_A_RUN = 2
TIMESTEP = 501
KL = 1e-6
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Impossible(Exception):
    """A work that a contestant cannot do; the message is the reason."""


class Order:
    """What `prepare` asks for."""

    def __init__(self, fields):
        self.__dict__.update(fields)
        self.folder, self.scratch = Path(self.folder), Path(self.scratch)
        self.torch_dtype = DTYPES[self.dtype]

    def inputs(self):
        return {name: x.to(self.device) for name, x in load_file(self.inputs_path).items()}


def plain(module, example):
    """diffusers as it is."""
    return module


def timed(device, body):
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    made = body()
    wait()
    return time.perf_counter() - start, made


def output_of(made):
    """A network's tensor, in whatever it is wrapped."""
    if isinstance(made, torch.Tensor):
        return made
    return made[0]


class Decoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, latents):
        # The class's own: a pipeline's object may call the contestant in its place.
        return diffusers.AutoencoderKL.decode(self.vae, latents, return_dict=False)[0]


class Encoder(torch.nn.Module):
    """The mean of the latents."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, image):
        return self.vae.encode(image).latent_dist.mean


class Pass(torch.nn.Module):
    """The U-Net with tensors alone: what can be exported."""

    def __init__(self, unet, added):
        super().__init__()
        self.unet, self.added = unet, added

    def forward(self, sample, timestep, context, *more):
        added = dict(zip(["text_embeds", "time_ids"], more)) if self.added else None
        forward = diffusers.UNet2DConditionModel.forward
        return forward(self.unet, sample, timestep, context, added_cond_kwargs=added, return_dict=False)[0]


def network(kind, folder, order):
    return kind.from_pretrained(folder, dtype=order.torch_dtype, local_files_only=True).to(order.device).eval()


def unet(order, adapt):
    module = network(diffusers.UNet2DConditionModel, order.folder / "unet", order)
    given = {name: x.to(order.torch_dtype) for name, x in order.inputs().items()}
    arguments = [given["sample"], torch.tensor([TIMESTEP], device=order.device), given["context"]]
    if "text_embeds" in given:
        sizes = torch.full((order.batch, 6), 8.0 * order.side, dtype=order.torch_dtype, device=order.device)
        arguments += [given["text_embeds"], sizes]
    call = adapt(Pass(module, "text_embeds" in given).eval(), arguments)
    return lambda: timed(order.device, lambda: output_of(call(*arguments)))


def vae(order, adapt, kind, name, scale):
    module = network(diffusers.AutoencoderKL, order.folder / "vae", order)
    given = order.inputs()[name].to(order.torch_dtype)
    if scale:
        given = given / module.config.scaling_factor
    call = adapt(kind(module).eval(), [given])
    return lambda: timed(order.device, lambda: output_of(call(given)))


def pipeline(order, adapt):
    """The whole model; its networks are the contestant's."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        order.folder, dtype=order.torch_dtype, local_files_only=True
    ).to(order.device)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    if adapt is plain:
        return pipe
    batch = order.batch * (1 if order.variant == "scale-1" else 2)
    config = pipe.unet.config
    draw = lambda *shape: torch.randn(shape, dtype=order.torch_dtype, device=order.device)
    example = [
        draw(batch, config.in_channels, order.side, order.side),
        torch.tensor(TIMESTEP, device=order.device),
        draw(batch, 77, config.cross_attention_dim),
    ]
    run = adapt(Pass(pipe.unet, False).eval(), example)
    pipe.unet.forward = lambda sample, t, encoder_hidden_states, return_dict=False, **_: (
        output_of(run(sample, t, encoder_hidden_states)),
    )
    decode = adapt(Decoder(pipe.vae).eval(), [draw(order.batch, config.in_channels, order.side, order.side)])
    pipe.vae.decode = lambda latents, return_dict=False, **_: (output_of(decode(latents)),)
    return pipe


def arguments(order):
    return dict(
        prompt=[PROMPT] * order.batch, num_inference_steps=order.steps, guidance_scale=SCALE,
        latents=order.inputs()["latents"].to(order.torch_dtype), output_type="pt",
    )


def generate(order, adapt):
    if order.variant not in ["", "scale-1", "single-runs"]:
        raise Impossible("diffusers has no such call")
    pipe, asked = pipeline(order, adapt), arguments(order)
    scales = {"": [SCALE], "scale-1": [1.0], "single-runs": SCALES}[order.variant]

    def draw():
        return [pipe(**asked | dict(guidance_scale=scale)).images for scale in scales][-1]

    def run():
        seconds, image = timed(order.device, draw)
        return seconds, image * 2 - 1 if len(scales) == 1 else None

    return run


def guided_steps(order, adapt):
    """As the pipeline's loop, without what comes before and after it."""
    pipe, asked = pipeline(order, adapt), arguments(order)
    context = torch.cat(pipe.encode_prompt(asked["prompt"], order.device, 1, True)[::-1])

    def take():
        pipe.scheduler.set_timesteps(order.steps, device=order.device)
        sample = asked["latents"] * pipe.scheduler.init_noise_sigma
        for t in pipe.scheduler.timesteps[:STEPS_OF_A_RUN]:
            both = pipe.scheduler.scale_model_input(torch.cat([sample] * 2), t)
            both = pipe.unet(both, t, encoder_hidden_states=context, return_dict=False)[0]
            uncond, cond = both.chunk(2)
            sample = pipe.scheduler.step(uncond + SCALE * (cond - uncond), t, sample, return_dict=False)[0]
        return sample

    def run():
        seconds, sample = timed(order.device, take)
        return seconds / STEPS_OF_A_RUN, sample

    return run


class FirstStep(Exception):
    pass


def first_step(order, adapt):
    pipe, asked = pipeline(order, adapt), arguments(order)

    def stop(_, i, t, values):
        raise FirstStep(values["latents"])

    def take():
        try:
            pipe(**asked, callback_on_step_end=stop)
        except FirstStep as step:
            return step.args[0]

    return lambda: timed(order.device, take)


def load(order, adapt):
    def run():
        seconds, pipe = timed(order.device, lambda: diffusers.StableDiffusionPipeline.from_pretrained(
            order.folder, dtype=order.torch_dtype, local_files_only=True
        ).to(order.device))
        del pipe
        gc.collect()
        return seconds, None

    return run


def training(order, module, loss_of):
    """AdamW with clipped gradients and a moving average of the weights, as `diffuscope train` has them."""
    weights = [p for p in module.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-6, betas=(0.9, 0.99), weight_decay=0.01)
    kind = order.device.split(":")[0]

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, order.torch_dtype, enabled=order.dtype != "f32"):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 0.001)
        return loss.item()

    with torch.enable_grad():
        first = step()

    @torch.enable_grad()
    def run():
        seconds, _ = timed(order.device, lambda: [step() for _ in range(TRAINING_STEPS_OF_A_RUN)])
        return seconds / TRAINING_STEPS_OF_A_RUN, torch.tensor([first])

    return run


def in_f32(kind, folder, order):
    return kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).to(order.device).train()


def train_unet(order, adapt):
    module = in_f32(diffusers.UNet2DConditionModel, order.folder / "unet", order)
    given = order.inputs()
    run = adapt(module, None)
    t = torch.tensor([TIMESTEP], device=order.device)

    def loss():
        output = run(given["sample"], t, given["context"], return_dict=False)[0]
        return torch.nn.functional.mse_loss(output.float(), given["noise"])

    return training(order, module, loss)


class Reconstruction(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, image, noise):
        posterior = self.vae.encode(image).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return (decoded.float() - image).abs().mean() + KL * kl


def train_vae(order, adapt):
    module = in_f32(diffusers.AutoencoderKL, order.folder / "vae", order)
    given = order.inputs()
    run = adapt(Reconstruction(module), None)
    return training(order, module, lambda: run(given["image"], given["noise"]))


def whole_process(order, adapt):
    script = Path(__file__).with_name("one_picture.py")
    command = [sys.executable, script, order.folder, order.dtype, order.device, order.steps, order.scratch / "peer.png"]

    def run():
        start = time.perf_counter()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise Impossible((done.stderr.strip().splitlines() or ["it failed"])[-1])
        return seconds, None

    return run


WORKS = {
    "unet": unet,
    "vae-encode": lambda order, adapt: vae(order, adapt, Encoder, "image", False),
    "vae-decode": lambda order, adapt: vae(order, adapt, Decoder, "latents", True),
    "generate": generate,
    "step": guided_steps,
    "first-step": first_step,
    "load": load,
    "train-unet": train_unet,
    "train-vae": train_vae,
    "process": whole_process,
}


def memory(field):
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def forget_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


class Served:
    def __init__(self, adapt_of, versions):
        self.adapt_of, self.versions, self.run = adapt_of, versions, None

    def answer(self, order):
        if order["do"] == "hello":
            own = dict(python=sys.version.split()[0], torch=torch.__version__, diffusers=diffusers.__version__,
                       transformers=transformers.__version__)
            return dict(versions=own | self.versions)
        if order["do"] == "prepare":
            self.run = None
            gc.collect()
            order["inputs_path"] = order.pop("inputs")
            self.order = Order(order)
            self.run, self.ran = WORKS[order["work"]](self.order, self.adapt_of(self.order)), False
            gc.collect()
            self.rest = memory("VmRSS:")
            return dict(ready=True)
        if order["do"] == "run" and self.run:
            forget_peak()
            seconds, answer = self.run()
            peak = memory("VmHWM:")
            if answer is not None and not self.ran:
                save_file(dict(answer=answer.detach().float().cpu().contiguous()), self.order.answer)
            self.ran = True
            return dict(seconds=seconds, peak=peak, rest=self.rest)
        raise Impossible("there is no such order, or nothing is prepared")


def serve(adapt_of, **versions):
    """Answers every line. `adapt_of` gives the contestant's `adapt` for an order, or says why there is none."""
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_grad_enabled(False)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for library in [diffusers, transformers]:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    served = Served(adapt_of, versions)
    for line in sys.stdin:
        try:
            answer = served.answer(json.loads(line))
        except Impossible as reason:
            answer = dict(error=str(reason))
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            answer = dict(error=f"{type(error).__name__}: {first}"[:300])
        print(json.dumps(answer), file=answers)
