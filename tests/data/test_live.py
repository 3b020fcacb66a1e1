"""A recording cut as a stream is, its clock, and its labels."""

import time

import numpy as np
import pytest

from event_files import some_events
from fptt import InputError
from fptt.data.live import Labels, paced, slices


def joined(pieces):
    return [np.concatenate([piece.events[column] for piece in pieces]) for column in range(4)]


def test_slices_of_time_hold_every_event_in_order_and_end_on_time():
    events = some_events(n=500, span=100_000)
    pieces = list(slices(events, microseconds=7000))
    assert all(np.array_equal(a, b) for a, b in zip(joined(pieces), events[:4], strict=True))
    assert np.diff([piece.end for piece in pieces]).tolist() == [7000] * (len(pieces) - 1)
    for piece in pieces:
        assert not len(piece.events.t) or piece.end - 7000 <= piece.events.t[0] <= piece.events.t[-1] < piece.end


def test_a_pause_is_made_of_empty_slices():
    events = some_events(n=4)._replace(t=np.array([0, 10, 5000, 5010]))
    assert [len(piece.events.t) for piece in slices(events, microseconds=1000)] == [2, 0, 0, 0, 0, 2]


def test_slices_of_events_are_full():
    events = some_events(n=103)
    pieces = list(slices(events, count=10))
    assert [len(piece.events.t) for piece in pieces] == [10] * 10
    assert all(np.array_equal(a, b[:100]) for a, b in zip(joined(pieces), events[:4], strict=True))
    assert [piece.end for piece in pieces] == events.t[9:100:10].tolist()


@pytest.mark.parametrize("how", [{}, {"microseconds": 5, "count": 5}, {"count": 0}, {"microseconds": -1}])
def test_one_way_to_cut(how):
    with pytest.raises(InputError, match=r"give one of the two|at least one"):
        list(slices(some_events(), **how))


def test_a_paced_stream_keeps_the_recording_s_time():
    events = some_events(n=50, span=200_000)
    start, times = time.monotonic(), []
    for piece in paced(slices(events, microseconds=50_000), int(events.t[0])):
        times.append((time.monotonic() - start) * 1e6 - (piece.end - events.t[0]))
    assert len(times) == 4 and min(times) >= 0 and max(times) < 500_000


def test_one_label_for_all():
    labels = Labels.read("3", 10)
    assert labels.at(0) == labels.at(10**12) == 3


@pytest.mark.parametrize("head", ["label,start_us,end_us", "class,startTime_usec,endTime_usec"])
def test_labels_of_a_table(tmp_path, head):
    (tmp_path / "labels.csv").write_text(f"{head}\n2,100,200\n1,300,400\n")
    labels = Labels.read(str(tmp_path / "labels.csv"), 3)
    first = head.startswith("class")  # DVS128 Gesture counts from 1
    assert [labels.at(t) for t in (99, 100, 199, 200, 350, 400)] == [None, 2 - first, 2 - first, None, 1 - first, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read labels from"),
        ("", "must start with the line label,start_us,end_us"),
        ("label,start,end\n1,2,3\n", "must start with the line"),
        ("label,start_us,end_us\n1,2\n", "line 2: expected three whole numbers, found '1,2'"),
        ("label,start_us,end_us\n1,2,3\n1,x,3\n", "line 3"),
        ("label,start_us,end_us\n7,2,3\n", "the network knows the classes 0 to 3"),
        ("class,startTime_usec,endTime_usec\n0,2,3\n", "label -1 of"),
    ],
)
def test_labels_that_are_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        Labels.read(str(tmp_path / "labels.csv"), 4)
    assert "\n" not in str(error.value)
