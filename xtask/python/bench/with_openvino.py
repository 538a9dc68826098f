"""diffusers with its networks converted to OpenVINO."""

import openvino
import peer
import torch

CANNOT = {
    "load": "its own format is loaded, which is another work",
    "process": "it is a library for networks alone",
    "train-unet": "it does not train",
    "train-vae": "it does not train",
}
PRECISIONS = {"f32": "f32", "bf16": "bf16"}


def adapt_of(order):
    if order.work in CANNOT:
        raise peer.Impossible(CANNOT[order.work])
    if order.device != "cpu":
        raise peer.Impossible("its plugin is that for CPUs")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": order.threads,
        "INFERENCE_PRECISION_HINT": PRECISIONS[order.dtype],
    }

    def adapt(module, example):
        # It is converted in f32 and computes in what the hint says.
        wide = lambda x: x.float() if x.is_floating_point() else x
        example = [wide(x) for x in example]
        converted = openvino.convert_model(module.float(), example_input=tuple(example), input=[x.shape for x in example])
        compiled = openvino.compile_model(converted, "CPU", settings)
        del converted
        request = compiled.create_infer_request()

        def run(*arguments):
            out = request.infer([wide(x).reshape(e.shape).numpy() for x, e in zip(arguments, example)], share_inputs=True)
            return torch.from_numpy(next(iter(out.values())).copy())

        return run

    return adapt


if __name__ == "__main__":
    peer.serve(adapt_of, openvino=openvino.__version__)
