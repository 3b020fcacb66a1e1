"""Muon, a base optimizer that moves matrices of weights along orthogonal directions."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamax import adamax

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Newton-Schulz, from Jordan 2024: singular values end in about 0.7 ... 1.2
SMALLEST = 32  # rows and columns, from which on a weight counts as a matrix


class Muon(Optimizer):
    """Each matrix of weights moves by its orthogonalised momentum, every other weight as Adamax moves it.

    For a matrix W with gradient G, its rows those of the first dimension (so that a convolution is one, too):

        M <- momentum M + (1 - momentum) G
        U  = the nearest to momentum M + (1 - momentum) G of the matrices with orthonormal rows or columns
        W <- W - lr 0.1 sqrt(max(rows, columns)) U

    U is approximated by ``iterations`` of Newton-Schulz (K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).
    The square root gives steps of all sizes of matrices the same root mean square (Liu et al. 2025, arXiv 2502.16982, eq. 4,
    who have 0.2 for Adam's rates), here 0.1 lr, about that of Adamax, so that one rate serves all weights. Within
    ``fptt.FPTT``, the regulariser is part of G.

    ``torch.optim.Muon`` refuses weights that are no matrices, and computes in bfloat16 where a processor only imitates it, too.

    Args:
        params: parameters or groups of them, as for any torch optimizer.
        lr: learning rate, of matrices and of all else.
        momentum: of matrices, in [0, 1).
        betas, eps: Adamax's, of all else: biases, scales, and weights with fewer than 32 rows or columns.
        iterations: of Newton-Schulz, at least 1.

    Raises:
        ValueError: for a setting outside its range.
        RuntimeError: in ``step``, for sparse or complex gradients.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-2,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        iterations: int = 5,
    ):
        if not lr >= 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss where one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = {}  # matrices by their size: they are orthogonalised together
            rest: list[Tensor] = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse or p.is_complex():
                    raise RuntimeError("Muon supports neither sparse nor complex gradients")
                rows, columns = size(p)
                if min(rows, columns) < SMALLEST:
                    rest.append(p)
                else:
                    alike.setdefault((rows, columns, p.dtype, p.device), []).append(p)
            for matrices in alike.values():
                self._move_matrices(group, matrices)
            if rest:
                self._move_others(group, rest)
        return loss

    def _move_matrices(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        momenta, gradients = [self.state[p]["momentum"] for p in parameters], gradients_of(parameters)
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        steps = orthogonal(torch.stack([g.flatten(1) for g in ahead]), group["iterations"])
        scale = 0.1 * max(size(parameters[0])) ** 0.5
        for p, step in zip(parameters, steps, strict=True):
            p.sub_(step.view(p.shape) * (group["lr"] * scale))

    def _move_others(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32)
                for name in ("exp_avg", "exp_inf"):
                    self.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        averages, maxima, steps = ([self.state[p][name] for p in parameters] for name in ("exp_avg", "exp_inf", "step"))
        beta1, beta2 = group["betas"]
        settings = {"eps": group["eps"], "beta1": beta1, "beta2": beta2, "lr": group["lr"], "weight_decay": 0.0}
        adamax(parameters, gradients_of(parameters), averages, maxima, steps, foreach=True, **settings)


def gradients_of(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def size(p: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight as a matrix; zeros for what has fewer than two dimensions."""
    return (p.shape[0], p[0].numel()) if p.dim() > 1 and p.numel() else (0, 0)


def orthogonal(matrices: Tensor, iterations: int) -> Tensor:
    """The nearest matrices with orthonormal rows (or columns, if there are more rows) to ``matrices`` [number, rows, columns].

    Approximately: after five iterations, singular values from two thousandths of a matrix's norm on have become 0.68 to 1.2.
    A matrix of zeros stays one.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    u = matrices if wide else matrices.mT
    u = u / torch.linalg.matrix_norm(u, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = u @ u.mT
        u = torch.baddbmm(u, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), u, beta=a)
    return u if wide else u.mT
