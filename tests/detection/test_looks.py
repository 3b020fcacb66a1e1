"""What a detector saw, and what other thresholds choose from it."""

import pytest
import torch

from detectors import detector
from fptt.detection.detector import Detector
from fptt.detection.looks import look

pytest.importorskip("torchvision")

IMAGE = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_other_thresholds_find_what_a_detector_with_them_finds_and_run_no_network(monkeypatch):
    seen, _ = look(detector(), IMAGE, 3)
    other = detector()
    expected = {}
    for other.threshold, other.iou in ((0.5, 0.45), (0.3, 0.1), (0.05, 0.9), (0.7, 0.45)):
        expected[other.threshold, other.iou] = other([IMAGE])[0]
    assert len({len(found.scores) for found in expected.values()}) > 2, "or the test shows nothing"
    monkeypatch.setattr(Detector, "forward", None)
    for chosen, found in expected.items():
        for given, wanted in zip(seen.found(*chosen), found, strict=True):
            torch.testing.assert_close(given, wanted)


def test_spikes_are_summed_over_channels_and_averaged_over_steps():
    seen, state = look(detector(), IMAGE, 3)
    other, after, spikes = detector(), None, {}
    for _ in range(3):
        _, after = other.step(IMAGE, after)
        for name, z in other.spikes(after).items():
            spikes.setdefault(name, []).append(z[0])
    spikes = {name: torch.stack(steps) for name, steps in spikes.items()}
    assert len(spikes) == 19 and spikes.keys() == seen.maps.keys()
    for name, z in spikes.items():
        torch.testing.assert_close(seen.maps[name], z.sum(1).mean(0))
        assert seen.rates[name] == pytest.approx(z.mean().item())
    assert seen.firing_rate == pytest.approx(
        sum(z.sum().item() for z in spikes.values()) / sum(z.numel() for z in spikes.values())
    )
    assert seen.firing_rate > 0.01
    further, _ = look(other, IMAGE, 1, state)
    torch.testing.assert_close(further.found(0.5, 0.45), detector().step(IMAGE, after)[0])
