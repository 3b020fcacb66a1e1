"""A set of samples, in memory or in a file, handed out in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fptt.errors import InputError

NEAR = 2**30  # bytes of a set that are kept beside the network


class Rows:
    """Some rows of a tensor that lies in a file: read like a tensor, it copies only the rows that are asked for.

    Args:
        storage: the tensor, such as ``torch.from_numpy`` of a memory-mapped array.
        rows: int64 [rows], which of it, and in which order.
    """

    def __init__(self, storage: Tensor, rows: Tensor):
        self.storage, self.rows = storage, rows
        self.shape = torch.Size((len(rows), *storage.shape[1:]))
        self.dtype = storage.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        return self.storage[self.rows[index]]


@dataclass(frozen=True)
class Samples:
    """Inputs ``x`` [samples, ...] and targets ``y`` [samples, ...] of one split, called ``name`` in messages."""

    x: Tensor | Rows
    y: Tensor
    name: str = "set"

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise InputError(f"{self.name}: {len(self.x)} inputs but {len(self.y)} targets; they must be as many")

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> "Samples":
        """These samples on ``device``; those that lie in a file stay there, and so do more than ``NEAR`` bytes."""
        if isinstance(self.x, Rows) or self.x.nbytes > NEAR:
            return self
        return Samples(self.x.to(device), self.y.to(device), self.name)

    def take(self, rows: Tensor, name: str) -> "Samples":
        """The samples of these ``rows``; those that lie in a file stay there."""
        x = Rows(self.x.storage, self.x.rows[rows]) if isinstance(self.x, Rows) else self.x[rows]
        return Samples(x, self.y[rows], name)

    def batches(
        self, batch_size: int, *, shuffle: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of ``x`` and ``y`` of ``batch_size`` samples, in order or shuffled; ``drop_last`` omits a ragged last one.

        Raises InputError for a batch larger than the set, and for inputs that are not finite.
        """
        number = self.number_of_batches(batch_size, drop_last)
        order = torch.arange(len(self)) if shuffle is None else torch.randperm(len(self), generator=shuffle)
        for rows in order.to(self.y.device).split(batch_size)[:number]:
            x = self.x[rows]
            if x.is_floating_point() and not torch.isfinite(x).all():
                bad = int(rows[int((~torch.isfinite(x.flatten(1))).any(1).nonzero()[0])])
                raise InputError(f"{self.name} set: sample {bad} holds NaN or infinity; remove or repair it")
            yield x, self.y[rows]

    def number_of_batches(self, batch_size: int, drop_last: bool = False) -> int:
        """How many ``batches`` there are. Raises InputError where there is none because the batch is larger than the set."""
        if drop_last and batch_size > len(self):
            raise InputError(f"--batch-size {batch_size} is larger than the {self.name} set of {len(self)}: lower it")
        return len(self) // batch_size if drop_last else -(-len(self) // batch_size)


def split(samples: Samples, size: int, names: tuple[str, str], seed: int = 0) -> tuple[Samples, Samples]:
    """Two disjoint sets, the second of ``size`` samples drawn at random with ``seed``.

    Raises InputError where nothing would be left for the first.
    """
    if not 0 <= size < len(samples):
        raise InputError(f"cannot take {size} of {len(samples)} samples for {names[1]}: choose fewer")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return samples.take(order[: len(samples) - size], names[0]), samples.take(order[len(samples) - size :], names[1])
