"""What a second thread is worth: an FPTT step with one and with two, on a processor that is idle and on one that is not.

    python benchmarks/threads.py [--out results/threads]

Recurrent LTC layers, Adamax, clipping at 1, compiled. Where "busy" is 1, another process computes with one thread all the time.
Writes OUT.json: medians of the step times, and what the second thread makes of them.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fptt.benchmark import Point, measure, write_record

NETWORKS = (  # neurons of a layer, layers, samples of a batch
    (64, 1, 100),
    (128, 1, 100),
    (128, 2, 100),
    (192, 2, 128),
    (256, 2, 128),
    (256, 2, 512),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results/threads"))
    options = parser.parse_args()
    rows = []
    for width, layers, batch_size in NETWORKS:
        for busy in (0, 1):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                shape = {"width": width, "layers": layers, "batch_size": batch_size}
                measured = measure([Point(time_steps=28, threads=n, **shape) for n in (1, 2)], options.repeats)
            finally:
                for other in others:
                    other.kill()
            one, two = (row["step_ms"] for row in measured)
            operations = round(6e-6 * batch_size * measured[0]["parameters"])
            row = {**shape, "busy": busy, "million_operations": operations, "step_ms": {"1": one, "2": two}}
            rows.append({**row, "times_faster_with_2": round(one / two, 2)})
            print(rows[-1], flush=True)
    write_record(options.out, {"repeats": options.repeats, "rows": rows})


if __name__ == "__main__":
    main()
