"""A trained network made ready to run: batch norms become part of the convolutions before them."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_conv_bn_weights

from fptt.layers import BatchNormThroughTime, Layer
from fptt.neurons import LiquidConv

Precision = Literal["float32", "bfloat16"]


@torch.no_grad()
def folded(model: nn.Module, precision: Precision = "float32") -> nn.Module:
    """A copy of ``model`` for evaluation, whose convolutional layers compute the same with less work.

    A batch norm in evaluation is an affine map of each channel, and so is part of the convolution before it. One with
    statistics of its own for every step is left as it is: it would need as many convolutions.

    Args:
        model: any module made of ``fptt.layers.Layer``.
        precision: "bfloat16" rounds weights and inputs of the layers' convolutions to 8 bits of mantissa (spikes are exact in
            it) and sums in float32; neurons and heads stay float32. Twice as fast on processors that have such instructions.
    """
    model = copy.deepcopy(model).eval()
    for layer in [module for module in model.modules() if isinstance(module, Layer)]:
        if isinstance(layer.synapse, nn.Conv2d):
            if layer.norm is not None and layer.norm.time_steps == 1:
                layer.synapse, layer.norm = _with_norm(layer.synapse, layer.norm), None
            if precision == "bfloat16":
                layer.synapse = BFloat16(layer.synapse)
        gates: list[Any] = [module for module in layer.neuron.modules() if isinstance(module, LiquidConv)]
        for gate in gates:
            if isinstance(gate.norm, nn.BatchNorm2d):
                gate.conv, gate.norm = fuse_conv_bn_eval(gate.conv, gate.norm), nn.Identity()
            if precision == "bfloat16":
                gate.conv = BFloat16(gate.conv)
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


def _with_norm(conv: nn.Conv2d, norm: BatchNormThroughTime) -> nn.Conv2d:
    fused = copy.deepcopy(conv)
    statistics = norm.running_mean[0], norm.running_var[0]
    fused.weight, fused.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.eps, norm.weight, norm.bias)
    return fused


class BFloat16(nn.Module):
    """``module``, a convolution, in bfloat16: float32 in, float32 out."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.bfloat16()).float()
