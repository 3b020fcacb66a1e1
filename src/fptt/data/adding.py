"""The adding problem (Hochreiter & Schmidhuber 1997): remember two marked numbers of a long sequence and add them."""

import torch

from fptt.data.samples import Samples


def adding(samples: int, time_steps: int, generator: torch.Generator, name: str = "train") -> Samples:
    """``x`` [samples, time_steps, 2]: numbers from U(0, 1) and marks; ``y`` [samples, 1]: the sum of the two marked.

    One mark lies in the first half of the sequence, one in the second. Predicting the mean, 1, gives an MSE of 1/6.
    Raises ValueError for fewer than two time steps.
    """
    if time_steps < 2:
        raise ValueError(f"the adding problem needs at least 2 time steps, got {time_steps}")
    numbers = torch.rand(samples, time_steps, generator=generator)
    half = time_steps // 2
    first = torch.randint(0, half, (samples, 1), generator=generator)
    second = torch.randint(half, time_steps, (samples, 1), generator=generator)
    marks = torch.zeros(samples, time_steps).scatter_(1, torch.cat((first, second), 1), 1.0)
    return Samples(torch.stack((numbers, marks), 2), (numbers * marks).sum(1, keepdim=True), name)
