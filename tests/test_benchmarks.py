"""What the library is measured against computes the same."""

import pytest
import torch

from fptt import state as states
from fptt.learning.losses import StepLoss
from fptt.learning.rules import SequenceTrainer, make_optimizer
from fptt.models.sequence import SequenceModel


def test_the_naive_loop_trains_as_the_library_does(benchmark):
    sequence, target = torch.randn(20, 5, 3, dtype=torch.float64), torch.arange(5) % 4
    model = SequenceModel(3, (7, 6), 4).double()
    naive = benchmark("naive").NaiveFPTT(model, lr=1e-2)
    optimizer = make_optimizer("fptt", torch.optim.Adamax(model.parameters(), lr=1e-2), max_norm=1.0)
    loss = StepLoss(torch.nn.functional.cross_entropy, 20)
    loss.weights = torch.arange(1, 21).double() / 20
    torch.manual_seed(2)
    rate = naive(sequence, target)
    torch.manual_seed(2)
    trained = SequenceTrainer(model, loss, optimizer, 20)(sequence, target)
    assert trained.firing_rate.item() == pytest.approx(rate)
    for layer, plain in zip(model.layers, naive.model.layers, strict=True):
        torch.testing.assert_close(torch.cat([layer.synapse.weight, layer.recurrent.weight], 1), plain.synapse.weight)
        gates, n = layer.neuron.rates, len(layer.neuron.rates.from_states[1].weight)
        rho = torch.cat([gates.from_current.weight[n:], gates.from_states[1].weight], 1)
        torch.testing.assert_close(rho, plain.tau_adp.weight)
    torch.testing.assert_close(model.output.weight, naive.model.output.weight)


def test_the_plain_detector_computes_what_spyv4_does(benchmark):
    module = benchmark("detector")
    model, state = module.network(64, 0.125), None
    plain = module.plain_step(model)
    x = torch.rand(3, 1, 3, 64, 64)
    with torch.no_grad():
        for x_t in x:
            output, state = model(x_t, state)
            maps = plain(x_t)
    assert 0.01 < states.firing_rate(state) < 0.5
    rows = torch.cat([m.unflatten(1, (3, -1)).permute(0, 1, 3, 4, 2).flatten(1, 3) for m in maps], 1)
    torch.testing.assert_close(rows, output, atol=1e-4, rtol=1e-4)
