"""Non-spiking recurrent networks behind the same protocol, for comparison."""

from typing import Literal

from torch import Tensor, nn


class RecurrentBaseline(nn.Module):
    """One LSTM or tanh-RNN cell per layer and a linear readout: ``output, state = model(x_t, state)``.

    Args:
        inputs, outputs: sizes of ``x_t`` [batch, inputs] and of ``output`` [batch, outputs].
        hidden: number of units of each layer, bottom first.
        cell: "lstm" or "rnn".
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, cell: Literal["lstm", "rnn"] = "lstm"):
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        make = nn.LSTMCell if cell == "lstm" else nn.RNNCell
        self.cells = nn.ModuleList(make(before, n) for before, n in zip((inputs, *hidden), hidden, strict=False))
        self.output = nn.Linear(hidden[-1], outputs)

    def initial_state(self, x: Tensor) -> tuple[Tensor | tuple[Tensor, Tensor], ...]:
        """Zeros for every cell; ``x`` [batch, inputs]."""
        zeros = [x.new_zeros(x.shape[0], hidden) for hidden in self.hidden]
        return tuple((z, z.clone()) if isinstance(cell, nn.LSTMCell) else z for cell, z in zip(self.cells, zeros, strict=True))

    def forward(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:  # type: ignore[type-arg]
        if x.dim() != 2 or x.shape[1] != self.inputs:
            raise ValueError(f"expected an input of shape [batch, {self.inputs}], got {list(x.shape)}")
        state = self.initial_state(x) if state is None else state
        after = []
        for cell, before in zip(self.cells, state, strict=True):
            after.append(cell(x, before))
            x = after[-1][0] if isinstance(cell, nn.LSTMCell) else after[-1]
        return self.output(x), tuple(after)
