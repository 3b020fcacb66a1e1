"""fptt web [options]"""

import argparse
from pathlib import Path

from fptt.commands.detectors import described, open_detector
from fptt.detection.detector import PACKAGED
from fptt.training.loop import stop_on_signal
from fptt.web.server import served


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fptt web",
        description="A page in the browser on which a trained SPYv4 shows what it finds in your images, videos and camera, and "
        "which of its neurons fire. Nothing leaves this machine. Ctrl-C ends it.",
    )
    add = parser.add_argument
    add("--weights", type=Path, help="file of weights or run folder of 'fptt train voc'; default: the weights of this package")
    add("--device", default="cpu", help="torch device (cpu)")
    add("--host", default="127.0.0.1", help="address to listen at: 0.0.0.0 lets other machines in (127.0.0.1, this one only)")
    add("--port", type=int, help="port to listen at; default: a free one from 7860 on")
    add("--open", action=argparse.BooleanOptionalAction, default=True, help="open the page in the browser")
    options = parser.parse_args(arguments)
    detector = open_detector(options.weights, options.device)
    name = str(options.weights or PACKAGED.name)
    with stop_on_signal() as stop, served(detector, name, options.host, options.port, options.open) as address:
        print(described(detector, options.weights))
        print(f"{address}  Ctrl-C ends it", flush=True)
        stop.wait()
    return 0
