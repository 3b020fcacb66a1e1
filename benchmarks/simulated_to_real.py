"""From simulated to real events: a network trained on simulated digits goes on learning on a stream of real N-MNIST recordings.

    python benchmarks/simulated_to_real.py --run RUN [--data DIR] [--lr 1e-3] [--out results/simulated-to-real]

RUN is of fptt train events-sim. Real training recordings come one by one, in random order, each once, as a camera would give
them: one frame, one update; each is answered before its label is learnt. Accuracy on the real recordings, on real ones never
streamed and on the simulated test set is measured before and after. Writes OUT.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from fptt.benchmark import write_record
from fptt.commands.common import trained
from fptt.data.samples import Samples
from fptt.learning.fptt import FPTT
from fptt.streaming import Stream
from fptt.tasks.events import NMNIST
from fptt.training.loop import Trainer


def adapt(trainer: Trainer, samples: Samples, lr: float) -> float:
    """Stream ``samples`` through the network of ``trainer``, which learns; returns the share it had right."""
    optimizer, right = trainer.optimizer, 0
    assert isinstance(optimizer, FPTT), "the run must be one of FPTT"
    for group in optimizer.param_groups:
        group["lr"] = lr
    stream = Stream(trainer.model.eval(), optimizer, trainer.loss)
    for x, y in samples.batches(1, shuffle=torch.Generator().manual_seed(0)):
        stream.reset()
        for x_t in trainer.task.encode(x, torch.Generator()):
            output = stream.step(x_t, y).output
        right += int(output.argmax() == y)
    optimizer.restart_from_average()
    return right / len(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.device = None
    torch.set_num_threads(1)
    trainer = trained(options)
    real = NMNIST(validation=0.0, data=options.data, **{key: getattr(trainer.task, key) for key in ("by", "length", "scale")})
    train, _, test = real.sets()
    result: dict[str, Any] = {"training_recordings": len(train), "test_recordings": len(test), "lr": options.lr}
    sets = {"real_test": test, "real_stream": train, "simulated_test": trainer.task.sets()[2]}
    result |= {f"{name}_before": trainer.evaluate(samples)["accuracy"] for name, samples in sets.items()}
    start = time.perf_counter()
    result["real_stream_while_learning"] = adapt(trainer, train, options.lr)
    result["ms_per_frame"] = 1000 * (time.perf_counter() - start) / len(train) / trainer.task.time_steps
    result |= {f"{name}_after": trainer.evaluate(sets[name])["accuracy"] for name in ("real_test", "simulated_test")}
    print(json.dumps(result, indent=1))
    if options.out:
        write_record(options.out, result)


if __name__ == "__main__":
    main()
