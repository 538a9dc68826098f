"""Runs a new user's first cells in a kernel and says what they do not show.

    first_cells.py ROOT

The first cell is that of the notebook which `cargo xtask lab` offers. Every other one has a test of its outputs.
"""

import json
import os
import sys
import tempfile
import threading
from pathlib import Path

from notebooks import ANSI, Kernel


AGAIN = "again"


class Shown:
    """What a cell has shown."""

    def __init__(self, outputs):
        result = next((o.data for o in outputs if o.output_type == "execute_result"), {})
        self.png = "image/png" in result or '<img src="data:image/png' in result.get("text/html", "")
        self.printed = "".join(o.text for o in outputs if o.get("name") == "stdout")
        self.text = result.get("text/plain", "")
        self.errors = "".join(o.text for o in outputs if o.get("name") == "stderr").strip()
        self.refused = "\n".join(ANSI.sub("", "\n".join(o.traceback)) for o in outputs if o.output_type == "error")

    def is_clean(self):
        return not (self.errors or self.refused)

    def __str__(self):
        parts = {"picture": self.png, "text": self.text, "stderr": self.errors, "error": self.refused}
        return "\n".join(f"{name}: {value}" for name, value in parts.items() if value)


def picture(*words):
    """A picture, with these words, and nothing wrong."""
    return lambda shown: shown.png and shown.is_clean() and all(word in shown.text for word in words)


def message(*words, lines=5):
    """No picture, but a short message with these words."""
    return lambda shown: (
        not shown.png and all(word in shown.errors for word in words) and shown.errors.count("\n") < lines
    )


def nothing(shown):
    return shown.is_clean() and not shown.text


def stopped(shown):
    """What there is after an interrupt, which says that it is a part."""
    return shown.png and "Note: stopped after" in shown.text and "of 900 steps" in shown.text and not shown.refused


# Cells, their tests, and the seconds after which they are interrupted; the last one is interrupted until it ends.
CELLS = (
    ("Schedule::cosine(1000)?", picture("Schedule of 1000 timesteps"), ()),
    ("let model = StableDiffusion::tiny()?;", nothing, ()),
    ("diffuscope::notebook::last_error()", lambda shown: "There was no error" in shown.printed, ()),
    ("&model.schedule", picture("Schedule of 1000 timesteps"), ()),
    (
        'let apple = model.generate(&Request::new("a red apple on the grass"))?;\n&apple',
        picture("a red apple on the grass, seed 0"),
        (),
    ),
    (
        'let two = Request::batch(["a red apple on the grass", "a rocket at night"]);\n'
        "figures::compare_guidance(&model, &two, &[1., 7.])?",
        picture("Sheet of 2 rows × 2 columns"),
        (),
    ),
    ('let trace = model.trace(&Request::new("a cat on the beach"))?;\n&trace', picture("Trace { 30 steps"), ()),
    (
        'model.generate(&Request::new("a dog on the moon riding a bicycle"))?',
        picture("Note: the model was not taught:", "moon", "bicycle"),
        (),
    ),
    (
        "let sum = &apple.latents + &apple.image;",
        message("two tensors' shapes do not fit", "at: let sum = &apple.latents + &apple.image;"),
        (),
    ),
    ("let product = apple.latents.f_matmul(&apple.image)?;", message("two tensors' shapes do not fit", lines=2), ()),
    ("diffuscope::notebook::last_error()", lambda shown: shown.is_clean() and "\nframe #1: " in shown.printed, ()),
    ("let numbers = vec![1, 2];\nlet i = 2;\nlet third = numbers[i];", message("at: let third = numbers[i];"), ()),
    ("let none: Option<i64> = None;\nnone.unwrap()", message("at: none.unwrap()"), ()),
    (
        'let euler: Sampler = "euler".parse()?;\n'
        'model.generate(&Request { sampler: Some(euler), ..Request::new("a red apple on the grass") })?',
        picture("a red apple on the grass"),
        (),
    ),
    (
        'let long = Request { num_inference_steps: 900, ..Request::new("a snowman in the snow") };\n'
        "let part = model.generate(&long)?;\n&part",
        stopped,
        (5,),
    ),
    ("&apple", picture("a red apple on the grass, seed 0"), ()),
    ("assert!(!part.finished);\n&part", stopped, ()),
    # An interrupt while a cell is compiled is meant for that cell.
    ("let other = model.trace(&long)?;\n&other", stopped, (0.3,)),
    ("assert!(model.generate(&Request::new(\"a cat\"))?.finished);", nothing, ()),
    (
        'let hub = StableDiffusion::open("nobody/nothing", Kind::Float, device::pick(None)?.device)?;',
        message("nobody/nothing", "offline", lines=1),
        (),
    ),
    ('picture::write_png("FOLDER/apple.png", &apple.image, &[])?;', nothing, ()),
    (
        "loop { std::thread::sleep(std::time::Duration::from_millis(50)); }",
        lambda shown: "interrupted twice" in shown.errors,
        (3, AGAIN),
    ),
    ("1 + 1", lambda shown: shown.text == "2", ()),
)


def interrupt(kernel, seconds, ended):
    """Interrupts after each of these times, and after AGAIN until the cell has ended."""
    for wait in seconds:
        while not ended.wait(2 if wait == AGAIN else wait):
            kernel.manager.interrupt_kernel()
            if wait != AGAIN:
                break


def hints(kernel):
    """What Tab and Shift+Tab do not say."""

    def ask(question, code):
        request = question(code, len(code))
        while True:
            reply = kernel.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == request:
                return json.dumps(reply["content"])

    asked = (
        (kernel.client.complete, "figures::compare_gui", "compare_guidance(sd, request, guidance_scales)"),
        (kernel.client.complete, "model.gen", "generate(request)"),
        (kernel.client.inspect, "model.generate", "pub fn generate(&self, request: &Request) -> Result<Generation>"),
        (kernel.client.inspect, "Schedule::cosine", "Nichol & Dhariwal 2021, eq. 17"),
    )
    return [f"{code}: no {word}" for question, code, word in asked if word not in ask(question, code)]


def run(root, folder):
    """What went wrong."""
    notebook = json.loads((root / "xtask/notebooks/scratch.ipynb").read_text())
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    os.environ["HF_HUB_OFFLINE"] = "1"
    wrong = []
    kernel = Kernel(root / "notebooks")
    try:
        for source, passes, interrupts in (("".join(first["source"]), nothing, ()), *CELLS):
            ended = threading.Event()
            threading.Thread(target=interrupt, args=(kernel, interrupts, ended), daemon=True).start()
            source = source.replace("FOLDER", str(folder))
            shown = Shown([o for o in kernel.execute(source)[0] if "Compiling" not in o.get("text", "")])
            ended.set()
            print(f"      {'ok    ' if passes(shown) else 'FAILED'} {source.splitlines()[-1]}", flush=True)
            if not passes(shown):
                wrong.append(f"{source}\n\n{shown}")
            if source.startswith("let model"):
                wrong += hints(kernel)
    finally:
        kernel.close()
    if not (folder / "apple.png").read_bytes().startswith(b"\x89PNG"):
        wrong.append("apple.png was not written")
    return wrong


def main():
    with tempfile.TemporaryDirectory() as folder:
        wrong = run(Path(sys.argv[1]), Path(folder))
    if wrong:
        sys.exit("cells that do not show what they should:\n\n" + "\n\n".join(wrong))


if __name__ == "__main__":
    main()
