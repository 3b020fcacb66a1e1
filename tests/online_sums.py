"""The gradients of the online rules as their papers write them: explicit sums over time in NumPy, no autograd anywhere.

The network is one layer of LIF neurons with a hard reset, recurrent or not, and an integrating readout with a constant leak:

    I_t = W x_t + b + R z_{t-1}      u_t = (1 - r) v_{t-1} + r I_t      z_t = H(u_t - theta)      v_t = (1 - z_t) u_t
    y_t = (1 - k) y_{t-1} + k (O z_t + c)                 loss = sum over t of weight_t CE(y_t, target), mean over the batch
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from fptt import surrogate
from fptt.models.sequence import SequenceModel

T, BATCH, INPUTS, NEURONS, OUTPUTS = 7, 3, 2, 4, 3
NAMES = {
    "layers.0.synapse.weight": "W",
    "layers.0.synapse.bias": "b",
    "layers.0.recurrent.weight": "R",
    "output.weight": "O",
    "output.bias": "c",
}


def network(recurrent=True, **options):
    """The network above, of fptt; weights large enough for a third of the neurons to fire."""
    torch.manual_seed(7)
    settings = {"neuron": "lif", "readout": "fixed", "recurrent": recurrent, "tau_m": 4.0, "b0": 0.4, "initial_v": "zero"}
    model = SequenceModel(INPUTS, (NEURONS,), OUTPUTS, **(settings | options)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(1.5 * torch.randn(p.shape, dtype=torch.float64))
        for name, buffer in model.named_buffers():  # their constants, in double precision
            if name.endswith("logit"):
                buffer.fill_(-math.log(1.0 if name.startswith("readout") else 3.0))
    return model


def problem(steps=T):
    """A sequence [time, batch, inputs] and its target [batch]."""
    generator = torch.Generator().manual_seed(11)
    return torch.randn(steps, BATCH, INPUTS, dtype=torch.float64, generator=generator), torch.tensor([0, 2, 1])


class Run(NamedTuple):
    """A pass through the sequence: each [time, batch, ...], constants, and the weights by their letters."""

    x: np.ndarray  # inputs
    before: np.ndarray  # z_{t-1}
    u: np.ndarray
    z: np.ndarray
    slope: np.ndarray  # surrogate derivative at u - theta
    error: np.ndarray  # d loss / d y_t, of the loss at t alone
    weights: dict
    r: float
    k: float


def run(model, sequence, target, step_weights):
    w = {letter: p.detach().numpy() for name, letter in NAMES.items() for n, p in model.named_parameters() if n == name}
    steps = len(sequence)
    r, k, theta = 1 / 4.0, 1 / 2.0, 0.4
    feedback = w.get("R", np.zeros((NEURONS, NEURONS)))
    x, v, z, y = sequence.numpy(), np.zeros((BATCH, NEURONS)), np.zeros((BATCH, NEURONS)), np.zeros((BATCH, OUTPUTS))
    rows = []
    for t in range(steps):
        before = z
        u = (1 - r) * v + r * (x[t] @ w["W"].T + w["b"] + before @ feedback.T)
        z = (u > theta).astype(float)
        v = (1 - z) * u
        y = (1 - k) * y + k * (z @ w["O"].T + w["c"])
        p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        error = float(step_weights[t]) * (p - np.eye(OUTPUTS)[target.numpy()]) / BATCH
        rows.append((before, u, z, surrogate.multi_gaussian(torch.from_numpy(u - theta)).numpy(), error))
    return Run(x, *(np.stack(values) for values in zip(*rows, strict=True)), w, r, k)


def product(later, earlier):
    """[out, in] sum over the batch."""
    return later.T @ earlier


def sltt(g, steps=None):
    """Each step by itself: ``steps`` are those learnt from."""
    total = {letter: np.zeros_like(value) for letter, value in g.weights.items()}
    for t in range(len(g.x)) if steps is None else steps:
        delta = g.k * (g.error[t] @ g.weights["O"]) * g.slope[t] * g.r
        total["W"] += product(delta, g.x[t])
        total["b"] += delta.sum(0)
        total["O"] += product(g.k * g.error[t], g.z[t])
        total["c"] += g.k * g.error[t].sum(0)
        if "R" in total:
            total["R"] += product(delta, g.before[t])
    return total


def ottt(g, steps=None):
    """The error of each step in ``steps`` times all earlier inputs, each weighted by the leak to the power of its age."""
    total = {letter: np.zeros_like(value) for letter, value in g.weights.items()}
    for t in range(len(g.x)) if steps is None else steps:
        delta = g.k * (g.error[t] @ g.weights["O"]) * g.slope[t] * g.r
        for s in range(t + 1):
            kept, read = (1 - g.r) ** (t - s), (1 - g.k) ** (t - s)
            total["W"] += product(delta, kept * g.x[s])
            total["b"] += kept * delta.sum(0)
            total["O"] += product(g.k * g.error[t], read * g.z[s])
            total["c"] += read * g.k * g.error[t].sum(0)
            if "R" in total:
                total["R"] += product(delta, kept * g.before[s])
    return total


def eprop(g, feedback=None):
    """The learning signal of each step times the eligibility of all earlier inputs, a product of the neuron's own derivatives.

    ``feedback`` [outputs, neurons] stands in for the output's weights in the learning signal.
    """
    total = {letter: np.zeros_like(value) for letter, value in g.weights.items()}
    back = g.weights["O"] if feedback is None else feedback
    kept = (1 - g.r) * (1 - g.z - g.slope * g.u)  # d u_{t+1} / d u_t of one neuron: its leak, and its reset
    steps = range(len(g.x))

    def spike(s, t):
        """d z_t / d I_s of each neuron, [batch, neurons]."""
        return g.slope[t] * np.prod(kept[s:t], axis=0) * g.r

    for t in steps:
        signal = g.k * (g.error[t] @ back)
        for read in range(t + 1):  # when the readout was given the spike that it remembers at t
            remembered = (1 - g.k) ** (t - read)
            total["O"] += product(g.k * g.error[t], remembered * g.z[read])
            total["c"] += remembered * g.k * g.error[t].sum(0)
            for s in range(read + 1):
                delta = signal * remembered * spike(s, read)
                total["W"] += product(delta, g.x[s])
                total["b"] += delta.sum(0)
                if "R" in total:
                    total["R"] += product(delta, g.before[s])
    return total


def assert_gradients(model, expected, tolerance=1e-9):
    for name, p in model.named_parameters():
        value = expected[NAMES[name]]
        error = np.abs(p.grad.numpy() - value).max() / max(np.abs(value).max(), 1e-9)
        assert error < tolerance, f"{name}: relative error {error:.3g}"


def bptt(model, sequence, target, step_weights):
    """Autograd through all of time, for the same loss; leaves the gradients in the parameters."""
    model.zero_grad()
    state, loss = None, 0.0
    for x_t, weight in zip(sequence, step_weights, strict=True):
        output, state = model(x_t, state)
        loss = loss + float(weight) * torch.nn.functional.cross_entropy(output, target)
    loss.backward()
    return {NAMES.get(name, name): p.grad.numpy().copy() for name, p in model.named_parameters()}
