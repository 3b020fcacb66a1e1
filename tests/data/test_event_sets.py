"""Recorded data sets, as folders and as the archives that are downloaded."""

import shutil
import sys

import numpy as np
import pytest

import event_files
from event_files import same, some_events
from fptt import InputError
from fptt.data import catalogue, event_sets, recordings


@pytest.mark.parametrize("form", ["folder", "inside", "tar"])
def test_dvs_gesture(tmp_path, form):
    files, expected = event_files.gesture_files()
    if form == "tar":
        event_files.write_tar(tmp_path / "DvsGesture.tar.gz", dict(reversed(files.items())))
        expected = [expected[i] for i in (4, 5, 2, 3, 0, 1)]
    else:
        event_files.write_folder(tmp_path, files)
    clips = list(event_sets.dvs_gesture(tmp_path / "DvsGesture" if form == "inside" else tmp_path).clips())
    assert [clip[1:4] for clip in clips] == [(label, test, person) for _, label, test, person in expected]
    assert all(same(clip.events, events) for clip, (events, *_) in zip(clips, expected, strict=True))


def test_real_gestures(data):
    clips = list(event_sets.dvs_gesture(data).clips())
    whole = recordings.read(data / "DvsGesture" / "user01_fluorescent.aedat")
    assert [clip.label for clip in clips] == list(range(10)) and not any(clip.test for clip in clips)
    assert sum(len(clip.events.t) for clip in clips) == len(whole.t) == 1_206_710, "the pauses hold no events"
    assert all(clip.events.t[-1] - clip.events.t[0] < 1_450_000 for clip in clips)


def test_trials_choose_the_recordings(tmp_path):
    files, expected = event_files.gesture_files()
    del files["DvsGesture/trials_to_test.txt"]
    event_files.write_folder(tmp_path, files)
    assert len(list(event_sets.dvs_gesture(tmp_path).clips())) == len(expected) - 2, "the third is in no list"


TABLE = "DvsGesture/user01_lab_labels.csv"
HEAD = b"class,startTime_usec,endTime_usec\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TABLE, None, "has no label file user01_lab_labels.csv"),
        (TABLE, HEAD, "names no gesture"),
        (TABLE, b"", "does not start with class,"),
        (TABLE, b"\xff\xfe,,\n1,2\n", "does not start with class,"),
        (TABLE, HEAD + b"3,10,x\n", "line 2 is not three integers"),
        (TABLE, HEAD + b"3,10\n", "line 2 is not three integers"),
        (TABLE, HEAD + b"1,1,9000\n12,10,20\n", "line 3 is gesture 12 .of 1 to 11."),
        (TABLE, HEAD + b"1,20,10\n", "from 20 to 10"),
        (TABLE, HEAD + b"1,10,20000\n4,5000000,6000000\n", "does not match its recording.*where gesture 2"),
        ("DvsGesture/user02_lab.aedat", None, "lacks 1 recordings that its trials name, the first user02"),
        ("DvsGesture/user02_lab.aedat", b"#!AER-DAT3.1\r\n", "user02_lab.aedat is damaged"),
        (
            "DvsGesture/trials_to_test.txt",
            b"user03_lab.aedat\nuser01_lab.aedat",
            "user01_lab.aedat is named for training and for testing",
        ),
    ],
)
def test_gestures_that_do_not_fit(tmp_path, name, content, message):
    files, _ = event_files.gesture_files()
    files = {key: value for key, value in (files | {name: content}).items() if value is not None}
    event_files.write_folder(tmp_path, files)
    with pytest.raises(InputError, match=message) as error:
        list(event_sets.dvs_gesture(tmp_path).clips())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["folder", "zips"])
def test_nmnist(tmp_path, form):
    files = event_files.nmnist_files()
    home = tmp_path / "NMNIST"
    home.mkdir()
    for part in ("Train", "Test"):
        chosen = {name: content for name, content in files.items() if name.startswith(part)}
        if form == "folder":
            event_files.write_folder(home, chosen)
        else:
            event_files.write_zip(home / f"{part}.zip", chosen)
    clips = list(event_sets.nmnist(tmp_path).clips())
    assert [(clip.label, clip.test, clip.group) for clip in clips] == [
        (digit, part == "Test", number) for part in ("Train", "Test") for digit in range(10) for number in range(3)
    ]
    assert same(clips[4].events, some_events(60, 34, 34, seed=10 * 1 + 1 + 5, span=300_000))


def test_real_nmnist(data):
    clips = list(event_sets.nmnist(data).clips())
    assert [sum(clip.test is test for clip in clips) for test in (False, True)] == [1000, 100]
    assert {clip.label for clip in clips} == set(range(10)) and all(len(clip.events.t) > 500 for clip in clips)


@pytest.mark.parametrize("form", ["folder", "zips"])
def test_cifar10_dvs(tmp_path, form):
    files = event_files.cifar10_dvs_files(3)
    home = tmp_path / "CIFAR10DVS"
    home.mkdir()
    if form == "folder":
        event_files.write_folder(home, files)
    for name in event_sets.CIFAR10 if form == "zips" else ():
        event_files.write_zip(home / f"{name}.zip", {key: value for key, value in files.items() if key.startswith(name)})
    clips = list(event_sets.cifar10_dvs(tmp_path).clips())
    assert [(clip.label, clip.group) for clip in clips] == [(label, number) for label in range(10) for number in range(3)]
    expected = some_events(52, seed=402)
    assert same(clips[14].events, expected._replace(x=expected.y, y=expected.x))


def test_cifar10_dvs_as_spikingjelly_reads_it(data, monkeypatch):
    """Column, row and polarity of the address, in their reader: 127 - bits 8-14, 127 - bits 1-7, 1 - bit 0."""
    path = data / "events" / "dvs128_alex_walking_again.aedat"
    content = path.read_bytes()
    ours = next(_only(event_sets.cifar10_dvs, monkeypatch, path))
    address = np.frombuffer(content[-8 * 19_182 :], ">u4")[::2]
    assert np.array_equal(ours.events.x, 127 - (address >> 8 & 127)) and np.array_equal(
        ours.events.y, 127 - (address >> 1 & 127)
    )
    assert np.array_equal(ours.events.p, 1 - (address & 1))


def _only(read, monkeypatch, path):
    monkeypatch.setattr(event_sets.archives, "find", lambda *_: path.parent)
    monkeypatch.setattr(event_sets.archives, "files", lambda *_: [(path.name, path.read_bytes())])
    monkeypatch.setattr(event_sets.archives, "listing", lambda *_: [])
    return read(path.parent).clips()


SHD = [([0.5, 0.0021, 0.9], [699, 0, 12], 19, 3), ([0.1], [5], 0, 7)]


def test_shd(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "SHD").mkdir()
    for part, rows in (("train", SHD), ("test", SHD[:1])):
        event_files.write_shd(tmp_path / "SHD" / f"shd_{part}.h5", rows)
    shutil.copy(tmp_path / "SHD" / "shd_test.h5", tmp_path / "shd_test.h5")
    event_files.write_zip(tmp_path / "SHD" / "shd_test.h5.zip", {"shd_test.h5": (tmp_path / "shd_test.h5").read_bytes()})
    (tmp_path / "SHD" / "shd_test.h5").unlink()
    clips = list(event_sets.shd(tmp_path).clips())
    assert [clip[1:4] for clip in clips] == [(19, False, 3), (0, False, 7), (19, True, 3)]
    for clip in (clips[0], clips[2]):
        assert clip.events.t.tolist() == [2100, 500_000, 900_000] and clip.events.x.tolist() == [0, 699, 12]
        assert clip.events[4:] == (700, 1) and clip.events.p.all()


def test_shd_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="SHD needs the package h5py: pip install 'fptt.events.'"):
        event_sets.shd(tmp_path)


def _wrong_label(path):
    event_files.write_shd(path, [([0.1], [5], 20, 1)])


def _wrong_channel(path):
    event_files.write_shd(path, [([0.1, 0.2], [5, 700], 2, 1)])


def _silent(path):
    event_files.write_shd(path, [([], [], 2, 1)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_wrong_label, "recording 0, has label 20"),
        (_wrong_channel, "event 1 at column 700"),
        (_silent, "recording 0, holds no events"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "shd_train.h5 is damaged"),
        (lambda path: path.write_bytes(b""), "shd_train.h5 is damaged"),
        (lambda path: path.unlink(), "SHD's shd_train.h5 is not in"),
    ],
)
def test_damaged_shd(tmp_path, damage, message):
    pytest.importorskip("h5py")
    (tmp_path / "SHD").mkdir()
    for part in ("train", "test"):
        event_files.write_shd(tmp_path / "SHD" / f"shd_{part}.h5", SHD)
    damage(tmp_path / "SHD" / "shd_train.h5")
    with pytest.raises(InputError, match=message) as error:
        list(event_sets.shd(tmp_path).clips())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("read", "what"),
    [(event_sets.nmnist, "NMNIST"), (event_sets.dvs_gesture, "DvsGesture"), (event_sets.cifar10_dvs, "CIFAR10DVS")],
)
def test_missing_sets(tmp_path, read, what):
    with pytest.raises(InputError, match=f"^{what} is not in .*--data.*docs/events.md"):
        read(tmp_path)
    (tmp_path / what).mkdir()
    if what != "DvsGesture":  # whose recordings lie in no folders of their own
        with pytest.raises(InputError, match="is not in"):
            read(tmp_path)
    assert what != "DvsGesture" or not list(read(tmp_path).clips())


def test_the_catalogue_finds_archives_as_they_are_downloaded(tmp_path):
    def found():
        return {row["name"] for row in catalogue.status(tmp_path) if row["found"] and row["path"] != "the package"}

    assert not found()
    event_files.write_tar(tmp_path / "DvsGesture.tar.gz", event_files.gesture_files()[0])
    (tmp_path / "NMNIST").mkdir()
    assert found() == {"DVS128 Gesture"}, "an empty folder is no data set"
    event_files.write_zip(tmp_path / "NMNIST" / "Train.zip", {})
    assert found() == {"DVS128 Gesture", "N-MNIST"}


def test_a_digit_in_no_folder_of_its_own(tmp_path):
    event_files.write_folder(tmp_path / "NMNIST", event_files.nmnist_files(1) | {"Train/more/1.bin": b"12345"})
    with pytest.raises(InputError, match="does not lie in a folder named by its digit"):
        list(event_sets.nmnist(tmp_path).clips())


def test_checksums_of_archives_are_compared(tmp_path):
    path = tmp_path / "DvsGesture.tar.gz"
    event_files.write_tar(path, event_files.gesture_files()[0])
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(InputError, match="DvsGesture.tar.gz is damaged .CRC check failed.*download it again"):
        list(event_sets.dvs_gesture(tmp_path).clips())


@pytest.mark.parametrize("kind", ["tar", "zip", "shd", "labels"])
def test_mutated_archives_and_tables(tmp_path, kind):
    """Whatever is in an archive, its recordings are read or refused in one line."""
    from data.test_recordings import mutated

    files, _ = event_files.gesture_files(2, 1)
    if kind == "tar":
        path, read = tmp_path / "DvsGesture.tar.gz", event_sets.dvs_gesture
        event_files.write_tar(path, files)
    elif kind == "labels":
        path, read = tmp_path / TABLE, event_sets.dvs_gesture
        event_files.write_folder(tmp_path, files)
    elif kind == "zip":
        path, read = tmp_path / "NMNIST" / "Train.zip", event_sets.nmnist
        path.parent.mkdir()
        event_files.write_zip(path, event_files.nmnist_files(1))
        event_files.write_zip(path.with_name("Test.zip"), {})
    else:
        pytest.importorskip("h5py")
        path, read = tmp_path / "SHD" / "shd_train.h5", event_sets.shd
        path.parent.mkdir()
        event_files.write_shd(path, SHD)
        event_files.write_shd(path.with_name("shd_test.h5"), SHD)
    refused = 0
    for content in mutated(path.read_bytes(), 500):
        path.write_bytes(content)
        try:
            for _ in read(tmp_path).clips():
                pass
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 0
