"""Weights and optimizer states in flat buffers, of which the parameters and the optimizers' states are views.

An update is then two sweeps over memory, not hundreds of small loops; who reads or changes a parameter or a state meets the
buffers without knowing of them.
"""

from typing import Any

import torch
from torch import Tensor

from fptt.learning.fptt import FPTT

COUNTERS = ("step", "mu_product")  # states that are one number for all weights; in double precision, as eager code has them
ALIGNMENT = 16  # weights: 64 bytes, a vector register


class Flat:
    """Tensors that are equally shaped for each of some parameters, kept in one buffer of which they become views.

    Numbers lie there in the order in which they lie in the parameter, be it that of its dimensions or channels last.
    """

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        self.orders = [in_memory(p) for p in parameters]
        self.offsets = [0]
        for p in parameters:
            self.offsets.append(self.offsets[-1] + -(-p.numel() // ALIGNMENT) * ALIGNMENT)

    def buffer(self) -> Tensor:
        return self.parameters[0].new_zeros(self.offsets[-1]).detach()

    def views(self, buffer: Tensor) -> list[Tensor]:
        views = []
        for p, order, start in zip(self.parameters, self.orders, self.offsets, strict=False):
            whole = buffer[start : start + p.numel()].view([p.shape[d] for d in order])
            views.append(whole.permute([order.index(d) for d in range(p.dim())]))
        return views

    def join(self, tensors: list[Tensor]) -> Tensor:
        """A new buffer holding ``tensors``, with zeros between them."""
        pieces = []
        for t, order, start, end in zip(tensors, self.orders, self.offsets, self.offsets[1:], strict=False):
            pieces.append(t.permute(order).reshape(-1))
            if end - start > t.numel():
                pieces.append(t.new_zeros(end - start - t.numel()))
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def in_memory(t: Tensor) -> list[int]:
    """The dimensions of ``t`` from the one with the longest way from number to number in memory to the one with the shortest.

    As they are where it has gaps there. A dimension of size 1 comes last of those with equally long ways: by its own way, torch
    tells whether a kernel of one input channel has its channels last.
    """
    order = sorted(range(t.dim()), key=lambda d: (t.stride(d), t.shape[d]), reverse=True)
    return order if t.permute(order).is_contiguous() else list(range(t.dim()))


class Group:
    """Parameters with the same settings, whose weights and optimizer states are views of flat buffers.

    ``tensors`` is what a graph reads and writes: the weights, each optimizer's states by name, and the learning rate.
    """

    def __init__(self, optimizer: FPTT, number: int, parameters: list[Tensor]):
        self.optimizers = (optimizer, optimizer.base)
        self.number = number
        self.flat = Flat(parameters)
        first = self.flat.parameters[0]
        if any(p.dtype != first.dtype or p.device != first.device for p in self.flat.parameters):
            raise NotImplementedError("its parameters have several dtypes or devices")
        for o in self.optimizers:
            counters = [o.state[p][key] for key in COUNTERS for p in self.flat.parameters if key in o.state[first]]
            if any(counter != counters[0] for counter in counters[: len(self.flat.parameters)]):
                raise NotImplementedError("its parameters have had different numbers of steps")
        self.tensors: dict[str, Any] = {
            "weights": self.flat.buffer(),
            "states": [{key: self.like(key, value) for key, value in o.state[first].items()} for o in self.optimizers],
            "lr": torch.zeros((), dtype=torch.float64, device=first.device),
        }

    @property
    def whole(self) -> bool:
        """Whether the optimizers have their states, as they had."""
        pairs = list(zip(self.optimizers, self.tensors["states"], strict=True))
        return all(buffers.keys() <= o.state.get(p, {}).keys() for o, buffers in pairs for p in self.flat.parameters)

    @property
    def settings(self) -> dict[str, Any]:
        return self.optimizers[0].param_groups[self.number]

    def like(self, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        device = self.flat.parameters[0].device  # optimizers leave counters on the host, where a GPU would wait for them
        return value.detach().to(device, torch.float64) if key in COUNTERS else self.flat.buffer()

    def attach(self) -> None:
        """Make parameters and states views of the buffers, taking over their values where they are not (any more)."""
        self.tensors["lr"].fill_(float(self.settings["lr"]))
        for p, view in zip(self.flat.parameters, self.flat.views(self.tensors["weights"]), strict=True):
            if p.data_ptr() != view.data_ptr():
                view.copy_(p.detach())
                p.data = view
        for optimizer, buffers in zip(self.optimizers, self.tensors["states"], strict=True):
            for key, buffer in buffers.items():
                if not isinstance(buffer, Tensor):
                    continue
                if key in COUNTERS:
                    buffer.copy_(optimizer.state[self.flat.parameters[0]][key])
                    continue
                for p, view in zip(self.flat.parameters, self.flat.views(buffer), strict=True):
                    if optimizer.state[p][key].data_ptr() != view.data_ptr():
                        view.copy_(optimizer.state[p][key])
                        optimizer.state[p][key] = view

    def release(self) -> None:
        """Write back what is not a view: the counters."""
        for optimizer, buffers in zip(self.optimizers, self.tensors["states"], strict=True):
            for key, buffer in buffers.items():
                if key in COUNTERS:
                    value = buffer.to(optimizer.state[self.flat.parameters[0]][key].device)  # one wait, not one for each
                    for p in self.flat.parameters:
                        optimizer.state[p][key].copy_(value)
