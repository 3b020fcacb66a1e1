import pytest
import torch
from torch import nn

from fptt.models.baselines import RecurrentBaseline


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_stepping_equals_torchs_whole_sequence_layers(cell):
    model = RecurrentBaseline(3, (6, 6), 2, cell)
    whole = (nn.LSTM if cell == "lstm" else nn.RNN)(3, 6, num_layers=2)
    with torch.no_grad():
        for number, layer in enumerate(model.cells):
            for name, value in layer.named_parameters():
                getattr(whole, f"{name}_l{number}").copy_(value)
    sequence, state = torch.randn(7, 4, 3), None
    for x in sequence:
        output, state = model(x, state)
    torch.testing.assert_close(output, model.output(whole(sequence)[0][-1]))
