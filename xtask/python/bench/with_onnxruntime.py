"""diffusers with its networks exported to ONNX and run by ONNX Runtime."""

import onnxruntime
import peer
import torch

CANNOT = {
    "load": "its own format is loaded, which is another work",
    "process": "it is a library for networks alone",
    "train-unet": "it does not train",
    "train-vae": "it does not train",
}


def adapt_of(order):
    if order.work in CANNOT:
        raise peer.Impossible(CANNOT[order.work])
    if order.device != "cpu":
        raise peer.Impossible("its package is that for CPUs")
    if order.dtype != "f32":
        raise peer.Impossible("its CPU kernels have no bf16")

    def adapt(module, example):
        path = order.scratch / f"{type(module).__name__}.onnx"
        names = [f"x{i}" for i in range(len(example))]
        torch.onnx.export(module, tuple(example), path, input_names=names, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = order.threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for file in order.scratch.glob(path.name + "*"):
            file.unlink()

        def run(*arguments):
            given = {name: x.reshape(e.shape).numpy() for name, x, e in zip(names, arguments, example)}
            return torch.from_numpy(session.run(None, given)[0])

        return run

    return adapt


if __name__ == "__main__":
    peer.serve(adapt_of, onnxruntime=onnxruntime.__version__)
