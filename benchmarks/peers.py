"""Training time beside other libraries: the same feed-forward LIF network, batch and data, all taking turns in one process.

    uv pip install -e '.[peers]'
    python benchmarks/peers.py [--threads 2] [--device cuda] [--out results/peers]

Two layers of 256 LIF neurons (time constant 2, threshold 1, reset to zero, arctan surrogate or the library's own) and a linear
readout of 10 classes, Adamax, batch 128, noise as data; all flush denormal numbers. FPTT updates after every time step, here
and in SpikingJelly, whose own network fptt trains as well; BPTT once a sequence. Peers that are not there are left out. Writes
OUT.json: median seconds a sequence, and for each peer the median of the ratios of neighbouring runs to fptt's rule of its kind.
"""

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fptt.benchmark import write_record
from fptt.interop import Stepped
from fptt.learning.losses import StepLoss
from fptt.learning.rules import Rule, SequenceTrainer, make_optimizer, number_of_parts
from fptt.models.sequence import SequenceModel
from fptt.training.precision import prepare_cpu

HIDDEN, CLASSES, BATCH = 256, 10, 128
WARM_UP = 3  # sequences, until everything is compiled and recorded
Train = Callable[[Tensor, Tensor], Any]


def own_network(inputs: int) -> nn.Module:
    options: dict[str, Any] = {"neuron": "lif", "recurrent": False, "b0": 1.0, "initial_v": "zero", "readout": "fixed"}
    return SequenceModel(inputs, (HIDDEN, HIDDEN), CLASSES, **options)


def ours(rule: Rule, model: nn.Module, steps: int, compiled: bool, device: str) -> Train:
    parts = number_of_parts(rule, steps, None)
    model.to(device)
    optimizer = make_optimizer(rule, torch.optim.Adamax(model.parameters(), lr=1e-3))
    return SequenceTrainer(model, StepLoss(F.cross_entropy, parts).to(device), optimizer, parts, compiled)


def sequence_training(model: nn.Module, outputs: Callable[[Tensor], Tensor]) -> Train:
    """BPTT of the loss at the last step."""
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-3)

    def train(sequence: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(outputs(sequence), target).backward()
        optimizer.step()

    return train


def spikingjelly_network(inputs: int, step_mode: str) -> nn.Sequential:
    from spikingjelly.activation_based import layer, neuron, surrogate

    def lif() -> nn.Module:
        return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), step_mode=step_mode)

    linear = {"step_mode": step_mode}
    return nn.Sequential(
        layer.Linear(inputs, HIDDEN, **linear),
        lif(),
        layer.Linear(HIDDEN, HIDDEN, **linear),
        lif(),
        layer.Linear(HIDDEN, CLASSES, **linear),
    )


def spikingjelly_fptt(inputs: int, device: str) -> Train:
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.learning import online_learning

    network = spikingjelly_network(inputs, "s").to(device)
    optimizer = torch.optim.Adamax(network.parameters(), lr=1e-3)
    averages = online_learning.fptt_online_training_init_w_ra(optimizer)

    def train(sequence: Tensor, target: Tensor) -> None:
        targets = target.expand(len(sequence), -1)
        online_learning.fptt_online_training(network, optimizer, sequence, targets, F.cross_entropy, 0.1, averages)
        functional.reset_net(network)

    return train


def spikingjelly_bptt(inputs: int, device: str) -> Train:
    from spikingjelly.activation_based import functional

    network = spikingjelly_network(inputs, "m").to(device)

    def outputs(sequence: Tensor) -> Tensor:
        functional.reset_net(network)
        return network(sequence)[-1]

    return sequence_training(network, outputs)


def snntorch_bptt(inputs: int, device: str) -> Train:
    import snntorch
    from snntorch import surrogate

    options: dict[str, Any] = {"beta": 0.5, "reset_mechanism": "zero", "spike_grad": surrogate.atan()}
    parts = [nn.Linear(inputs, HIDDEN), snntorch.Leaky(**options), nn.Linear(HIDDEN, HIDDEN), snntorch.Leaky(**options)]
    network = nn.ModuleList([*parts, nn.Linear(HIDDEN, CLASSES)]).to(device)

    def outputs(sequence: Tensor) -> Tensor:
        first, lif1, second, lif2, readout = network
        v1, v2 = lif1.init_leaky(), lif2.init_leaky()  # type: ignore[operator]
        for x in sequence:
            z, v1 = lif1(first(x), v1)
            z, v2 = lif2(second(z), v2)
            output = readout(z)
        return output

    return sequence_training(network, outputs)


def norse_bptt(inputs: int, device: str) -> Train:
    import norse.torch as norse

    cells = [nn.Linear(inputs, HIDDEN), norse.LIFBoxCell(), nn.Linear(HIDDEN, HIDDEN), norse.LIFBoxCell()]
    network = norse.SequentialState(*cells, nn.Linear(HIDDEN, CLASSES)).to(device)

    def outputs(sequence: Tensor) -> Tensor:
        state = None
        for x in sequence:
            output, state = network(x, state)
        return output

    return sequence_training(network, outputs)


PEERS: dict[str, tuple[str, Callable[[int, str], Train]]] = {  # name: package, network
    "spikingjelly FPTT": ("spikingjelly", spikingjelly_fptt),
    "spikingjelly BPTT": ("spikingjelly", spikingjelly_bptt),
    "snntorch BPTT": ("snntorch", snntorch_bptt),
    "norse BPTT": ("norse", norse_bptt),
}


def compare(inputs: int, steps: int, repeats: int, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    sequence, target = torch.rand(steps, BATCH, inputs, device=device), torch.randint(0, CLASSES, (BATCH,), device=device)
    rules: tuple[Rule, ...] = ("fptt", "bptt")
    runs = {f"fptt {rule.upper()}": ours(rule, own_network(inputs), steps, True, device) for rule in rules}
    runs |= {f"fptt {rule.upper()}, eager": ours(rule, own_network(inputs), steps, False, device) for rule in rules}
    for name, (package, make) in PEERS.items():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{package} is not installed: left out")
            continue
        try:
            train = make(inputs, device)
            train(sequence, target)
        except Exception as error:  # of whatever kind: another library's, such as a kernel that it cannot build here
            print(f"{name} does not run ({type(error).__name__}: {error}): left out")
            continue
        runs[name] = train
    if "spikingjelly FPTT" in runs:
        network = Stepped(spikingjelly_network(inputs, "s"))
        runs["fptt FPTT, spikingjelly's network"] = ours("fptt", network, steps, True, device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + WARM_UP):
        for name, train in runs.items():
            start = time.perf_counter()
            train(sequence, target)
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    ratios = {}
    for name in runs:
        own = times["fptt FPTT" if "FPTT" in name else "fptt BPTT"]
        ratios[name] = round(statistics.median(t / o for t, o in zip(times[name], own, strict=True)), 2)
    return {
        "inputs": inputs,
        "time_steps": steps,
        "sequence_s": {name: round(statistics.median(values), 5) for name, values in times.items()},
        "times_slower_than_fptt": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path("results/peers"))
    options = parser.parse_args()
    prepare_cpu(options.threads)
    rows = []
    for inputs, steps in ((28, 28), (784, 20)):
        rows.append(compare(inputs, steps, options.repeats, options.device))
        print(json.dumps(rows[-1], indent=1), flush=True)
    packages = {}
    for package, _ in PEERS.values():
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    write_record(options.out, {"threads": options.threads, "peers": packages, "rows": rows}, options.device)


if __name__ == "__main__":
    main()
