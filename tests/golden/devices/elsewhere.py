"""Makes elsewhere.pt, which gives a tensor of the same shape and dtype on another device, without a GPU: torch's device
`meta`, which has no numbers. Run it with the packages of ../requirements.txt."""

import pathlib

import torch


class Elsewhere(torch.nn.Module):
    def forward(self, x):
        return x.to("meta")


torch.jit.script(Elsewhere()).save(pathlib.Path(__file__).with_suffix(".pt"))
