"""A network in a file of torch.export against the network itself."""

import json

import pytest
import torch

from fptt import InputError
from fptt.export import export
from fptt.models.baselines import RecurrentBaseline
from fptt.models.sequence import SequenceModel

MODELS = {
    "ltc with batch norm": lambda: SequenceModel(3, (5,), 4, norm_steps=6),
    "alif by its membrane": lambda: SequenceModel(3, (5,), 4, neuron="alif", readout="membrane"),
    "lstm": lambda: RecurrentBaseline(3, (5,), 4),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_exported_step_is_the_network(tmp_path, name):
    model = MODELS[name]()
    described = export(model, torch.randn(2, 3), tmp_path / "step.pt2")
    extra = {"fptt.json": ""}
    step = torch.export.load(tmp_path / "step.pt2", extra_files=extra).module()
    assert json.loads(extra["fptt.json"]) == described
    exported = [
        torch.zeros([7 if size == -1 else size for size in leaf["shape"]], dtype=getattr(torch, leaf["dtype"]))
        for leaf in described["state"]
    ]
    for _ in range(2):  # a second sequence starts like the first
        state, restart = None, True
        for x_t in torch.randn(8, 7, 3):
            output, *exported = step(x_t, torch.tensor(restart), *exported)
            expected, state = model(x_t, state)
            torch.testing.assert_close(output, expected)
            restart = False


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        export(MODELS["lstm"](), torch.randn(2, 3), tmp_path / "missing" / "step.pt2")
