"""A detector at work: its files, its boxes, its state."""

import json
import pickle

import pytest
import torch

from detectors import NAMES, detector, finding, lively
from fptt import state as states
from fptt.data.letterbox import letterbox
from fptt.detection.detector import Detector
from fptt.detection.folding import folded
from fptt.detection.head import Head, detections
from fptt.errors import InputError

safetensors = pytest.importorskip("safetensors.torch")
pytest.importorskip("torchvision")


def images(*sizes):
    return [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for height, width in sizes]


def assert_same(first, second, tolerance=0.0):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_steps": 3},
        {"norm_steps": None, "b0": 0.05},
        {"readout": "liquid", "neuron": "alif", "adaptive": True, "b0": 0.1, "tau_m": 1.5, "reset": "soft"},
        {"neuron": "relu"},
    ],
    ids=str,
)
def test_folding_changes_nothing(options):
    model = lively(**options).double()
    x = torch.rand(4, 2, 3, 64, 64, dtype=torch.float64)
    fast = folded(model)
    before = after = None
    for x_t in x:
        with torch.no_grad():
            expected, before = model(x_t, before)
            output, after = fast(x_t, after)
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    norms = [layer.norm for layer in fast.layers.values() if layer.norm is not None]
    assert len(norms) == (19 if options.get("norm_steps") == 3 else 0)
    assert states.firing_rate(before) > 0.01 or options.get("neuron") == "relu"


def test_in_bfloat16_only_convolutions_are_rounded():
    model = lively(neuron="relu")  # of spikes, one that is rounded away changes all after it
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected, _ = model(x)
        output, _ = folded(model, "bfloat16")(x)
    assert output.dtype == torch.float32
    error = (output - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize(
    "options",
    [{}, {"norm_steps": 3, "readout": "liquid"}, {"neuron": "alif", "adaptive": True, "b0": 0.1, "tau_m": 1.5}],
    ids=str,
)
def test_a_file_gives_the_detector_back(options, tmp_path):
    head = Head(3, 64, torch.tensor([[[10, 20], [30, 20], [50, 60]], [[3, 4], [5, 6], [8, 7]]]))
    training = {"task": "voc", "test_map50": 0.25}
    first = Detector(lively(**options), head, NAMES, 5, threshold=0.6, training={**training, "firing_rate": float("nan")})
    before = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    first.save(tmp_path / "w.safetensors")
    second = Detector.load(tmp_path / "w.safetensors")
    assert (second.names, second.steps, second.threshold, second.training) == (NAMES, 5, 0.6, training)
    assert second.model.settings == first.model.settings
    assert torch.equal(second.head.anchors, head.anchors)
    for name, tensor in second.model.state_dict().items():
        kernel = tensor.dim() == 4
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name].half().float() if kernel else before[name]), name

    first.model.load_state_dict({name: t.half().float() if t.dim() == 4 else t for name, t in before.items()})
    rounded = Detector(first.model, head, NAMES, 5, threshold=0.6)
    pictures = images((40, 60), (64, 20))
    for found, expected in zip(second(pictures), rounded(pictures), strict=True):
        assert len(found.boxes) > 0
        assert_same(found, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"], "nothing half-written is left"


def test_its_options_replace_those_of_the_file(tmp_path):
    detector().save(tmp_path / "w.safetensors")
    assert Detector.load(tmp_path / "w.safetensors", threshold=0.9).threshold == 0.9


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def damaged(path, change):
    """A file of weights whose description, or tensors, ``change(about, tensors)`` has changed."""
    with safetensors.safe_open(path, framework="pt") as file:
        about, tensors = json.loads(file.metadata()["fptt.detector"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    path.write_bytes(safetensors.save(tensors, {"fptt.detector": json.dumps(about)}))


BAD = {
    "no file": (lambda path: path.unlink(), "cannot read"),
    "empty": (lambda path: path.write_bytes(b""), "damaged or no file of weights"),
    "text": (lambda path: path.write_text("weights\n" * 100), "damaged or no file of weights"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "damaged or no file of weights"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Trap())), "damaged or no file of weights"),
    "a checkpoint": (lambda path: torch.save({"model": Trap()}, path), "damaged or no file of weights"),
    "another's": (lambda path: path.write_bytes(safetensors.save({"w": torch.ones(3)})), "was not written by fptt"),
    "no metadata of ours": (
        lambda path: path.write_bytes(safetensors.save({"w": torch.ones(3)}, {"fptt.detector": "{"})),
        "was not written by fptt",
    ),
    "no object": (
        lambda path: path.write_bytes(safetensors.save({"w": torch.ones(3)}, {"fptt.detector": "[]"})),
        "was not written by fptt",
    ),
    "a later format": (lambda path: damaged(path, lambda about, _: about.update(format=2)), "in another format"),
    "no names": (lambda path: damaged(path, lambda about, _: about.update(names=[])), "contradicts itself"),
    "other names": (lambda path: damaged(path, lambda about, _: about.update(names=["ant"])), "contradicts itself"),
    "no steps": (lambda path: damaged(path, lambda about, _: about.pop("steps")), "contradicts itself"),
    "no time": (lambda path: damaged(path, lambda about, _: about.update(steps=0)), "contradicts itself"),
    "wrong anchors": (lambda path: damaged(path, lambda about, _: about.update(anchors=[[1]])), "contradicts itself"),
    "an unknown setting": (lambda path: damaged(path, lambda about, _: about["model"].update(x=1)), "contradicts itself"),
    "a number as text": (lambda path: damaged(path, lambda about, _: about["model"].update(b0="1")), "contradicts itself"),
    "an unknown reset": (lambda path: damaged(path, lambda about, _: about["model"].update(reset="no")), "contradicts itself"),
    "too large": (lambda path: damaged(path, lambda about, _: about["model"].update(width=1e4)), "contradicts itself"),
    "a tensor less": (lambda path: damaged(path, lambda _, tensors: tensors.pop("heads.0.bias")), "contradicts itself"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_used_is_one_line(case, tmp_path):
    path = tmp_path / "w.safetensors"
    detector().save(path)
    spoil, message = BAD[case]
    spoil(path)
    with pytest.raises(InputError, match=message) as problem:
        Detector.load(path)
    assert "\n" not in str(problem.value) and "w.safetensors" in str(problem.value)


def test_weights_that_diverged_are_not_written(tmp_path):
    one = detector()
    one.model.heads[0].weight.data[0, 0] = 1e6  # more than half precision holds
    with pytest.raises(InputError, match=r"heads.0.weight is not finite"):
        one.save(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="cannot write"):
        detector().save(tmp_path / "nowhere" / "w.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("height", "width"), [(60, 120), (123, 45), (64, 64), (31, 200)])
def test_boxes_are_in_pixels_of_the_image_and_inside_it(height, width):
    inner = (0.2 * width, 0.3 * height, 0.7 * width, 0.9 * height)
    outer = (0.5 * width, -0.1 * height, 1.1 * width, 0.6 * height)
    both = finding([(*inner, 0.9, 1), (*outer, 0.6, 2)], height, width)(images((height, width)))[0]
    assert both.labels.tolist() == [1, 2]
    assert both.scores.tolist() == pytest.approx([0.9, 0.6], abs=1e-4)
    clipped = (0.5 * width, 0.0, width, 0.6 * height)
    torch.testing.assert_close(both.boxes, torch.tensor([inner, clipped]), atol=0.05, rtol=0)


def test_images_of_a_batch_do_not_depend_on_each_other_and_results_repeat():
    one, pictures = detector(), images((50, 80), (80, 50), (64, 64))
    together = one(pictures)
    assert all(len(found.boxes) for found in together)
    for picture, expected in zip(pictures, together, strict=True):
        assert_same(one([picture])[0], expected, tolerance=1e-3)
        assert_same(one.step(picture, None, one.steps)[0], expected, tolerance=1e-3)
    assert_same(one(pictures)[1], together[1])
    assert len(one(pictures, steps=1)[0].boxes) != len(together[0].boxes), "one step is not three"


def test_a_stream_carries_its_state_on():
    """Frame by frame, a detector says what its network says of the sequence."""
    one, frames = detector(), images(*[(64, 64)] * 4)
    model, expected, state = one.model, None, None
    carried = None
    for number, frame in enumerate(frames):
        found, carried = one.step(frame, carried)
        with torch.no_grad():
            output, state = model(letterbox(frame, 64)[0][None] / 255, state)
        expected = detections(output, one.head, threshold=0.5)[0]
        assert len(found.boxes) > 0
        assert_same(
            found._replace(boxes=expected.boxes.clamp(0, 64)), expected._replace(boxes=expected.boxes.clamp(0, 64)), 1e-4
        )
        fresh, _ = one.step(frame)
        assert (len(fresh.boxes) != len(found.boxes)) == (number > 0), "with the state of before, a frame looks different"


def test_spikes_and_firing_rates_of_every_layer():
    one = detector()
    _, state = one.step(images((64, 64))[0], None, steps=3)
    spikes, rates = one.spikes(state), one.firing_rates(state)
    assert list(spikes) == list(rates) == list(one.model.layers)
    assert spikes["stem1"].shape == (1, 8, 32, 32)
    assert set(spikes["stem1"].unique().tolist()) == {0.0, 1.0}
    assert rates["stem1"] == pytest.approx(spikes["stem1"].mean().item()) and max(rates.values()) < 1
    twin = Detector(lively(neuron="relu"), Head(3, 64), NAMES, 1)
    assert twin.firing_rates(twin.step(images((64, 64))[0])[1]) == {}


def test_without_a_compiler_it_says_so(monkeypatch):
    def fails(*_):
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    with pytest.raises(InputError, match=r"cannot be compiled here \(no compiler\)"):
        detector(compile=True)(images((64, 64)))


@pytest.mark.slow
def test_compiled_it_finds_the_same_each_detector_with_its_own_weights():
    pictures = images((64, 64), (64, 64))
    for change in (0.0, 0.5):
        compiled, plain = detector(), detector()
        for one in (compiled, plain):
            one.model.heads[0].weight.data += change
        compiled = Detector(compiled.model, compiled.head, NAMES, 3, threshold=0.5, compile=True)
        plain = Detector(plain.model, plain.head, NAMES, 3, threshold=0.5)
        for found, expected in zip(compiled(pictures), plain(pictures), strict=True):
            assert_same(found, expected, tolerance=1e-3)
