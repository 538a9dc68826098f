"""Executes notebooks, each in a fresh kernel, and writes their outputs back.

    notebooks.py run|check|warm [--time] ROOT NOTEBOOK ...

The kernel answers "ok" to a cell that panicked or returned early by `?`, and only prints to stderr;
so a cell fails when it answers with an error *or* prints anything to stderr that is not a warning.
It also fails when it ends in a value that was shown without a picture: a chapter's cells end in
figures or in nothing.

The picture of the cell with the tag "thumbnail" is also written to docs/, under the chapter's name.
"""

import base64
import json
import os
import re
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from queue import Empty

import nbformat
from jupyter_client.manager import KernelManager
from jupyter_core.paths import jupyter_runtime_dir

KERNEL = "diffuscope"
# Cargo's own lines, and the warnings that the library prints.
HARMLESS = re.compile(
    r"\s*(Compiling|Updating|Locking|Adding|Removing|Downloading|Downloaded|Blocking|Finished|Fresh"
    r"|warning\b).*|\s*"
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class CellFailed(Exception):
    pass


class Kernel:
    """A running kernel whose working folder is `folder`."""

    def __init__(self, folder):
        runtime = Path(jupyter_runtime_dir())
        runtime.mkdir(parents=True, exist_ok=True)
        connection = runtime / f"kernel-{uuid.uuid4()}.json"
        self.manager = KernelManager(kernel_name=KERNEL, connection_file=str(connection))
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=600)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)

    def execute(self, source, live=None):
        """Returns the cell's outputs, its execution count, and the second at which it was done."""
        request = self.client.execute(source, store_history=True)
        outputs, count, done = [], None, None
        while True:
            try:
                # What was printed to stderr may come a little after the cell's end.
                wait = 1 if done is None else 0.25
                message = self.client.get_iopub_msg(timeout=wait)
            except Empty:
                if done is not None:
                    return outputs, count, done
                if not self.manager.is_alive():
                    raise CellFailed("the kernel died") from None
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status":
                ours = message["parent_header"].get("msg_id") == request
                if ours and content["execution_state"] == "idle":
                    done = time.time()
            elif kind == "execute_input":
                count = content["execution_count"]
            elif kind in ("stream", "display_data", "execute_result", "error"):
                if live:
                    live(content)
                append(outputs, nbformat.v4.output_from_msg(message))


def append(outputs, output):
    """Adds an output; a stream goes on in the stream of the same name before it."""
    if output.output_type == "stream" and outputs:
        last = outputs[-1]
        if last.output_type == "stream" and last.name == output.name:
            last.text += output.text
            return
    outputs.append(output)


def failure(outputs):
    """What went wrong in a cell, or None."""
    for output in outputs:
        if output.output_type == "error":
            text = "\n".join(output.traceback) or output.evalue or output.ename
            return ANSI.sub("", text).strip()
        if output.output_type == "stream" and output.name == "stderr":
            if any(not HARMLESS.fullmatch(line) for line in output.text.splitlines()):
                return output.text.strip()
        if output.output_type == "execute_result" and "image/png" not in output.data:
            text = output.data.get("text/plain", "")
            return f"it ends in a value that is no picture; end it with a figure or with `;`:\n{text}"
    return None


def normalise(outputs, root):
    """Drops what differs from machine to machine: cargo's lines, paths, timing."""
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            lines = output.text.splitlines(keepends=True)
            if output.name == "stderr":
                lines = [line for line in lines if line.lstrip().startswith("warning")]
            output.text = "".join(lines)
            if not output.text:
                continue
        if "execution_count" in output:
            output.execution_count = None
        kept.append(output)
    text = json.dumps(kept, ensure_ascii=False)
    for path, name in ((str(root), "."), (str(Path.home()), "~")):
        if len(path) > 1:
            text = text.replace(json.dumps(path, ensure_ascii=False)[1:-1], name)
    return [nbformat.from_dict(output) for output in json.loads(text)]


def compiled_at(root, since, until):
    """When the cell's code was ready to run: the kernel renames its library then."""
    built = root.glob(".lab/evcxr/*/target/*/debug")
    libraries = (path for folder in built for end in ("", "deps/") for path in folder.glob(end + "*code_*"))
    times = (path.stat().st_ctime for path in libraries)
    return max((t for t in times if since <= t <= until), default=None)


def execute(path, root, timed):
    """Executes one notebook in place and returns it with its timing report."""
    notebook = nbformat.read(path, as_version=4)
    started = time.time()
    kernel = Kernel(path.parent)
    report, overheads = [f"kernel start {time.time() - started:6.2f} s"], []
    try:
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            sent = time.time()
            outputs, count, done = kernel.execute(cell.source)
            if timed:
                ready = compiled_at(root, sent, done)
                overhead = (ready or done) - sent
                first_line = cell.source.strip().splitlines()[0][:60]
                report.append(
                    f"cell {index + 1:3}: {done - sent:6.2f} s, before it ran {overhead:6.2f} s"
                    f"   {first_line}"
                )
                overheads.append(overhead)
            problem = failure(outputs)
            if problem and "raises-exception" not in cell.metadata.get("tags", []):
                raise CellFailed(f"cell {index + 1} failed:\n{cell.source}\n\n{problem}")
            cell.outputs = normalise(outputs, root)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
            cell.execution_count = count
            cell.metadata.pop("execution", None)
    finally:
        kernel.close()
    if overheads:
        report.append(f"first cell {overheads[0]:.2f} s")
    if len(overheads) > 1:
        report.append(f"median overhead of the other cells {statistics.median(overheads[1:]):.2f} s")
    notebook.metadata = {
        "kernelspec": {"display_name": "Rust (Diffuscope)", "language": "rust", "name": KERNEL},
        "language_info": {
            "codemirror_mode": "rust",
            "file_extension": ".rs",
            "mimetype": "text/rust",
            "name": "Rust",
            "pygments_lexer": "rust",
        },
    }
    return notebook, report


def write_whole(path, text):
    """Writes beside, then renames."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        os.chmod(beside, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def write(notebook, path, root):
    """Writes the notebook, and the README's picture of it."""
    write_whole(path, f"{nbformat.writes(notebook)}\n".encode())
    tagged = [cell for cell in notebook.cells if "thumbnail" in cell.metadata.get("tags", [])]
    for output in (output for cell in tagged for output in cell.outputs):
        if "image/png" in output.get("data", {}):
            picture = base64.b64decode(output.data["image/png"])
            write_whole(root / "docs" / f"{path.stem}.png", picture)


# The last one does not compile: evcxr answers a mistake by `cargo check`, which builds the
# dependencies a second time.
WARMING = (
    ':dep diffuscope = { path = "." }',
    # As the kernel does when it starts, where a failure would end it without a word.
    "let preloaded = diffuscope::tch::Tensor::from(0.0).f_neg()?;\ndrop(preloaded);",
    'let wrong: u8 = "";',
)


def warm(folder):
    """Builds the notebooks' dependency once, as a first cell would."""

    def live(content):
        for line in ANSI.sub("", content.get("text", "")).splitlines():
            if line.strip():
                print(f"      {line.strip()}", flush=True)

    kernel = Kernel(folder)
    try:
        for source in WARMING:
            outputs, _, _ = kernel.execute(source, live)
            problem = failure(outputs)
            if problem and source != WARMING[-1]:
                raise CellFailed(problem)
    finally:
        kernel.close()


def main():
    mode, *arguments = sys.argv[1:]
    timed = "--time" in arguments
    root, *paths = [Path(argument) for argument in arguments if argument != "--time"]
    if mode == "warm":
        try:
            warm(root)
        except (CellFailed, RuntimeError) as error:
            sys.exit(f"{error}")
        return
    failed = []
    for number, path in enumerate(paths, start=1):
        print(f"[{number}/{len(paths)}] {path.name} ...", flush=True)
        started = time.time()
        try:
            notebook, report = execute(path, root, timed)
            if mode == "run":
                write(notebook, path, root)
        except (CellFailed, RuntimeError, nbformat.ValidationError, ValueError, OSError) as error:
            failed.append(path.name)
            print(f"{path.name}: {error}", file=sys.stderr, flush=True)
            continue
        for line in report if timed else []:
            print(f"      {line}", flush=True)
        print(f"      executed in {time.time() - started:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
