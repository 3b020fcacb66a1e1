"""Peak training memory against the length of the sequence, FPTT beside BPTT.

    python benchmarks/memory.py [--out results/memory]

Each point is a process of its own: it builds one LTC layer of 128 neurons (batch 32), trains on one warm-up sequence of
20 steps and then on one of T steps, and reports how far the resident set rose during the latter above where it stood
after the warm-up, and the peak of the whole process. Writes OUT.json and OUT.png.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
from pathlib import Path

LENGTHS = {"fptt": (100, 300, 1000, 3000, 10_000), "bptt": (100, 300, 1000, 3000, 10_000)}


def measure(rule: str, time_steps: int) -> dict[str, float]:
    import torch

    from fptt.learning.losses import StepLoss
    from fptt.learning.rules import SequenceTrainer, make_optimizer, number_of_parts
    from fptt.models.sequence import SequenceModel

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = SequenceModel(2, (128,), 10)
    optimizer = make_optimizer(rule, torch.optim.Adamax(model.parameters(), lr=1e-3), max_norm=1.0)
    target = torch.randint(0, 10, (32,))

    def train(length: int) -> None:
        parts = number_of_parts(rule, length, None)
        loss = StepLoss(torch.nn.functional.cross_entropy, parts)
        SequenceTrainer(model, loss, optimizer, parts)(torch.rand(length, 32, 2), target)

    train(20)
    before = resident_mb()
    train(time_steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"rule": rule, "time_steps": time_steps, "peak_mb": round(peak, 1), "rise_mb": round(peak - before, 1)}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/memory"))
    parser.add_argument("--point", nargs=2, metavar=("RULE", "T"), help="measure one point and print it")
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(options.point[0], int(options.point[1]))))
        return
    import torch

    from fptt import __version__, plots

    rows = []
    for rule, lengths in LENGTHS.items():
        for length in lengths:
            command = [sys.executable, __file__, "--point", rule, str(length)]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(rows[-1], flush=True)
    peak = {(row["rule"], row["time_steps"]): row["peak_mb"] for row in rows}
    result = {
        "command": f"python benchmarks/memory.py --out {options.out}",
        "network": "1 recurrent LTC layer of 128, 2 inputs, batch 32, float32, 1 CPU thread",
        "seed": 0,
        "versions": {"fptt": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": f"{platform.machine()} {platform.system()}",
        "fptt_peak_10000_over_100": round(peak["fptt", 10_000] / peak["fptt", 100], 4),
        "rows": rows,
    }
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    series = {rule.upper(): [(row["time_steps"], row["peak_mb"]) for row in rows if row["rule"] == rule] for rule in LENGTHS}
    plots.save(plots.scaling(series, "time steps T", "peak memory of the process (MB)"), options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
