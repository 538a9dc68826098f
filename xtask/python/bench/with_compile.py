"""diffusers with its networks compiled by torch.compile."""

import peer
import torch

# Frozen weights are packed once, in the order that the kernels want.
import torch._inductor.config as inductor

WHOLE = ["load", "process"]


def adapt_of(order):
    if order.work in WHOLE:
        raise peer.Impossible("compiling changes nothing of it, or is longer than all of it")
    learns = order.work.startswith("train")
    inductor.freezing = not learns and order.device == "cpu"

    def adapt(module, example):
        torch._dynamo.reset()
        return torch.compile(module)

    return adapt


if __name__ == "__main__":
    peer.serve(adapt_of)
