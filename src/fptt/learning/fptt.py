"""Forward Propagation Through Time as an optimizer (Kag & Saligrama, ICML 2021; Yin, Corradi & Bohté, arXiv 2112.11231).

FPTT learns at every time step from that step's loss alone. What ties the steps together is a dynamic regulariser R that
holds each weight w near its running average, corrected by a multiplier lambda which tracks the loss's gradient:

    R(w)    = (rho - 1) <w, lambda> + (alpha / 2) ||w - average||^2
    gradient of  weight(t) loss + R, clipped as a whole, goes to the base optimizer
    lambda  <- lambda - alpha (w - average)
    average <- (1 - beta) average + beta w - (beta / alpha) lambda

The average starts at w, lambda at 0. R's gradient has the closed form (rho - 1) lambda + alpha (w - average).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

Form = Literal["code", "published"]


class FPTT(Optimizer):
    """Wraps any torch optimizer: call ``step()`` once per time step, on states that were detached before it.

        optimizer = FPTT(torch.optim.Adamax(model.parameters(), lr=3e-3), alpha=0.1, beta=0.5)
        for t, x_t in enumerate(sequence):
            output, state = model(x_t, fptt.detach(state))
            loss = (t + 1) / len(sequence) * criterion(output, target)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
        with optimizer.averaged_weights():
            evaluate(model)

    Param groups are those of the base optimizer, so learning-rate schedulers work on either. A group may hold its own
    ``fptt_alpha`` and ``fptt_beta``.

    Args:
        base: the optimizer that receives the gradient of loss + R.
        alpha: strength of the regulariser (> 0); what counts is its ratio to the scale of the loss.
        beta: rate of the running average, in (0, 1].
        rho: weakens the linear term of R, in [0, 1).
        max_norm: clips the norm of the whole gradient, loss and regulariser together; None for no clipping.
        form: how the linear term enters. "code", the default, is the authors' code and the equations above. "published" is
            eq. 4 of Kag & Saligrama, (alpha/2) ||w - average - lambda/(2 alpha)||^2: half the linear term, with
            lambda <- lambda/2 - alpha (w - average), which is the loss's gradient at the optimum of that step.

    Raises:
        ValueError: for a setting outside its range.
        RuntimeError: in ``step``, for sparse gradients.
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        rho: float = 0.0,
        max_norm: float | None = None,
        form: Form = "code",
    ):
        if not isinstance(base, Optimizer):
            raise TypeError(f"FPTT wraps a torch optimizer, got {type(base).__name__}: pass torch.optim.Adamax(...), say")
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha}; without the regulariser use the base optimizer itself")
        if not 0 < beta <= 1:
            raise ValueError(f"beta must lie in (0, 1], got {beta}")
        if not 0 <= rho < 1:
            raise ValueError(f"rho must lie in [0, 1), got {rho}")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be positive or None, got {max_norm}")
        if form not in ("code", "published"):
            raise ValueError(f"form must be 'code' or 'published', got '{form}'")
        self.base, self.max_norm = base, max_norm
        self.linear = 0.5 if form == "published" else 1 - rho  # R's linear term is -linear <w, lambda>
        self.decay = 0.5 if form == "published" else 1.0  # lambda <- decay lambda - alpha (w - average)
        super().__init__(base.param_groups, {**base.defaults, "fptt_alpha": alpha, "fptt_beta": beta})
        self.param_groups = base.param_groups

    exchanged = 0  # how deep in ``averaged_weights``

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss where one is given (as optimizers like LBFGS need)."""
        self._check_own_weights("step")
        if closure is None:
            self._add_regulariser()
            loss = self.base.step()
        else:

            def with_regulariser() -> Any:
                with torch.enable_grad():
                    loss = closure()
                self._add_regulariser()
                return loss

            loss = self.base.step(with_regulariser)
        for w, average, lambda_, group in self._groups():
            alpha, beta = group["fptt_alpha"], group["fptt_beta"]
            if self.decay != 1:
                torch._foreach_mul_(lambda_, self.decay)
            torch._foreach_add_(lambda_, torch._foreach_sub(w, average), alpha=-alpha)
            torch._foreach_mul_(average, 1 - beta)
            pull = torch._foreach_mul(w, beta)
            torch._foreach_add_(pull, lambda_, alpha=-beta / alpha)
            torch._foreach_add_(average, pull)
        return loss

    def _add_regulariser(self) -> None:
        """Add R's gradient, -linear lambda + alpha (w - average), to the gradients and clip the sum."""
        gradients: list[Tensor] = []
        for w, average, lambda_, group in self._groups():
            g = [p.grad for p in w if p.grad is not None]
            if any(grad.is_sparse for grad in g):
                raise RuntimeError("FPTT does not support sparse gradients: build the embedding with sparse=False")
            torch._foreach_add_(g, lambda_, alpha=-self.linear)
            torch._foreach_add_(g, torch._foreach_sub(w, average), alpha=group["fptt_alpha"])
            gradients += g
        if self.max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(
                [p for group in self.param_groups for p in group["params"]],
                self.max_norm,
                torch.nn.utils.get_total_norm(gradients),
            )

    def _groups(self) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor], dict[str, Any]]]:
        """For each group: the weights that have a gradient, their averages and multipliers, and the group's settings."""
        for group in self.param_groups:
            w = [p for p in group["params"] if p.grad is not None]
            if w:
                yield w, [self._memory(p)["average"] for p in w], [self._memory(p)["lambda_"] for p in w], group

    def _memory(self, p: Tensor) -> dict[str, Tensor]:
        memory = self.state[p]
        if not memory:
            memory["average"] = p.detach().clone(memory_format=torch.preserve_format)
            memory["lambda_"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return memory

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within this context the parameters hold their running averages; afterwards their own values again.

        It may be entered again inside. There, ``step``, ``state_dict`` and ``load_state_dict`` raise RuntimeError.
        """
        if not self.exchanged:
            self._swap()
        self.exchanged += 1
        try:
            yield
        finally:
            self.exchanged -= 1
            if not self.exchanged:
                self._swap()

    def _check_own_weights(self, name: str) -> None:
        if self.exchanged:
            raise RuntimeError(f"FPTT.{name}() within averaged_weights(), where the weights are not its own: leave it first")

    @torch.no_grad()
    def _swap(self) -> None:
        for p, memory in self.state.items():
            own = p.clone()
            p.copy_(memory["average"])
            memory["average"].copy_(own)

    @torch.no_grad()
    def restart_from_average(self) -> None:
        """Set the weights to their running averages, as the reference does at the end of every epoch; lambda stays."""
        for p, memory in self.state.items():
            p.copy_(memory["average"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        alpha, beta = (param_group.get(name, self.defaults[name]) for name in ("fptt_alpha", "fptt_beta"))
        if not (alpha > 0 and 0 < beta <= 1):
            raise ValueError(f"fptt_alpha must be positive and fptt_beta lie in (0, 1], got {alpha} and {beta}")
        if self.param_groups is not self.base.param_groups:  # still in __init__: the base has the group already
            super().add_param_group(param_group)
            return
        self.base.add_param_group(param_group)
        for name, value in self.defaults.items():
            self.param_groups[-1].setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("base", "max_norm", "linear", "decay")}
        return {**super().__getstate__(), **own}

    def state_dict(self) -> dict[str, Any]:
        """In any optimizer's form: by parameter "average", "lambda_" and what ``base`` keeps, named "base.NAME"."""
        self._check_own_weights("state_dict")
        content = super().state_dict()
        for key, memory in self.base.state_dict()["state"].items():
            own = content["state"].get(key, {})
            content["state"][key] = {**own, **{f"base.{name}": value for name, value in memory.items()}}
        return content

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._check_own_weights("load_state_dict")
        groups, own = state_dict["param_groups"], dict[Any, dict[str, Any]]()
        of_base = dict(state_dict["base"]["state"]) if "base" in state_dict else {}  # where it was kept in older checkpoints
        for key, memory in state_dict["state"].items():
            for name, value in memory.items():
                kind, inner = (of_base, name.removeprefix("base.")) if name.startswith("base.") else (own, name)
                kind.setdefault(key, {})[inner] = value
        if not all("fptt_alpha" in group for group in groups) or not all("average" in memory for memory in own.values()):
            raise ValueError("not an FPTT state dict: it has no averages; load a plain optimizer's into FPTT(...).base instead")
        super().load_state_dict({"state": own, "param_groups": groups})
        self.base.load_state_dict({"state": of_base, "param_groups": groups})
        self.param_groups = self.base.param_groups
