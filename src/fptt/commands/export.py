"""fptt export RUN [options]"""

import argparse
from pathlib import Path

import torch

from fptt.commands.common import add_common, show, trained
from fptt.commands.detectors import open_detector
from fptt.errors import InputError
from fptt.export import export
from fptt.loading import write_weights
from fptt.neuromorphic import write_nir


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fptt export",
        description="Write a trained network as one file that runs without fptt: output, *state = step(x_t, restart, *state); "
        "as a graph of NIR, for other simulators and neuromorphic chips; a trained detector as weights for 'fptt detect'; or "
        "any run as a folder with its weights alone, to be shared, which every command takes for a run but to resume it.",
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, help="what to write: .pt2, .nir, .safetensors, or a folder; default RUN/step.pt2")
    parser.add_argument("--dt", type=float, default=1e-4, help="seconds of a time step in a graph of NIR (1e-4)")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score that the weights show by default (0.3)")
    add_common(parser)
    options = parser.parse_args(arguments)
    out = options.out or options.run / "step.pt2"
    if out.suffix == ".safetensors":
        if not 0 < options.threshold < 1:
            raise InputError(f"--threshold must lie in (0, 1), got {options.threshold}")
        detector = open_detector(options.run, options.device or "cpu", threshold=options.threshold)
        detector.save(out)
        show({"exported": str(out), **detector.training}, options.json)
        return 0
    if out.suffix not in (".pt2", ".nir", ""):
        raise InputError(
            f"--out {out}: a file of torch.export ends in .pt2, one of NIR in .nir, a detector's weights in .safetensors, "
            "a folder's name has no dot"
        )
    trainer = trained(options)
    if not out.suffix:
        write_weights(trainer, out)
        show({"exported": str(out)}, options.json)
        return 0
    if out.suffix == ".nir":
        show({"exported": str(out), **write_nir(trainer.model, out, options.dt)}, options.json)
        return 0
    x = trainer.task.sets()[2].x[:2]
    sequence = trainer.task.encode(x, torch.Generator().manual_seed(0)).to(trainer.device)
    show({"exported": str(out), **export(trainer.model, sequence[0], out)}, options.json)
    return 0
