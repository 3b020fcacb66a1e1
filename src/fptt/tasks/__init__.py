"""One page per experiment. ``TASKS`` says where each lives, so that listing them imports none."""

from importlib import import_module
from typing import TYPE_CHECKING

from fptt.errors import InputError

if TYPE_CHECKING:
    from fptt.tasks.base import Task

TASKS = {
    "digits": ("fptt.tasks.digits:Digits", "scikit-learn's handwritten digits, row by row or pixel by pixel; no download"),
    "adding": ("fptt.tasks.adding:Adding", "the adding problem at any length"),
    "rmnist": ("fptt.tasks.mnist:RowMNIST", "MNIST row by row, repeated as a constant current, or rate-coded"),
    "smnist": ("fptt.tasks.mnist:SequentialMNIST", "MNIST pixel by pixel, 784 steps"),
    "psmnist": ("fptt.tasks.mnist:PermutedMNIST", "MNIST pixel by pixel in a fixed random order"),
    "mnist": ("fptt.tasks.images:MNIST", "MNIST images as a constant current, through a convolutional network"),
    "fashion": ("fptt.tasks.images:FashionMNIST", "Fashion-MNIST, as mnist"),
    "cifar10": ("fptt.tasks.images:CIFAR10", "CIFAR-10, as mnist, in colour"),
    "nmnist": ("fptt.tasks.events:NMNIST", "N-MNIST: digits before a moving event camera"),
    "dvs-gesture": ("fptt.tasks.events:DVSGesture", "DVS128 Gesture: 11 gestures before an event camera"),
    "cifar10-dvs": ("fptt.tasks.events:CIFAR10DVS", "CIFAR10-DVS: moving images before an event camera"),
    "shd": ("fptt.tasks.events:SHD", "Spiking Heidelberg Digits: spoken digits as spikes"),
    "events-sim": ("fptt.tasks.simulated:SimulatedEvents", "simulated events: MNIST images before a simulated event camera"),
    "voc": ("fptt.tasks.voc:VOC", "SPYv4, the spiking object detector, on PASCAL VOC or a folder of its layout"),
    "arrays": ("fptt.tasks.arrays:Arrays", "your own sequences, from an .npz file"),
}


def get(name: str) -> "type[Task]":
    """The configuration class of task ``name``. Raises InputError for an unknown one."""
    if name not in TASKS:
        raise InputError(f"unknown task '{name}': choose one of {', '.join(TASKS)}")
    module, attribute = TASKS[name][0].split(":")
    task: type[Task] = getattr(import_module(module), attribute)
    return task
