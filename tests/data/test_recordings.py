"""Recordings: what was written is read back exactly, real files as other libraries read them, damage is named."""

import random
import struct
import sys
import time

import numpy as np
import pytest

import event_files
from event_files import same, some_events
from fptt import InputError
from fptt.data import formats, recordings
from fptt.data.events import Events, between, checked

# Counts, size and span as the libraries that own the formats give them (tests below ask those that are installed).
REAL = {
    "dvs128_alex_walking_again.aedat": (19_182, (128, 128), (41_306_606, 48_193_156)),
    "dvs128_cam255_right_clamp_test1.aedat": (110_228, (128, 128), (52_965_624, 70_984_609)),
    "dvs128_neal_walking.aedat": (70_304, (128, 128), (135_707_767, 144_951_371)),
    "sample_nmnist.bin": (4_325, (34, 34), (654, 311_175)),
    "sample.aedat4": (111_954, (320, 240), (1_605_537_493_718_345, 1_605_537_494_308_262)),
    "evt2_sample.raw": (539_481, (640, 480), (1_317_888, 1_367_888)),
    "evt3_sample.raw": (219_596, (1280, 720), (11_718_656, 11_727_457)),
    "sample_ncars.dat": (2_009, (78, 42), (0, 99_952)),
}
LIBRARY = {"sample.aedat4": "evlib", "evt2_sample.raw": "evlib", "evt3_sample.raw": "evlib"}


@pytest.mark.parametrize(
    ("suffix", "write", "events"),
    [
        ("aedat", event_files.aedat2, some_events()),
        ("aedat", event_files.aedat3, some_events()),
        ("aedat", event_files.aedat3, some_events(3000, span=2**33)),
        ("aedat", lambda e: event_files.aedat3(e, source="DAVIS240C"), some_events(500, 240, 180)),
        ("aedat", lambda e: event_files.aedat2(e, "eu.seebetter.ini.chips.davis.Davis346red"), some_events(500, 346, 260)),
        ("bin", event_files.nmnist, some_events(2000, 34, 34, span=2**23)),
        ("dat", event_files.dat, some_events(2000, 304, 240)),
    ],
)
def test_round_trip(tmp_path, suffix, write, events):
    path = tmp_path / f"recording.{suffix}"
    path.write_bytes(write(events))
    assert same(recordings.read(path), events)


@pytest.mark.parametrize("name", REAL)
def test_real_recordings(data, name):
    if name in LIBRARY:
        pytest.importorskip(LIBRARY[name])
    number, size, span = REAL[name]
    events = recordings.read(data / "events" / name)
    assert (len(events.t), events[4:], (events.t[0], events.t[-1])) == (number, size, span)
    assert [values.dtype.str[1:] for values in events[:4]] == ["i8", "i2", "i2", "b1"]
    assert (np.diff(events.t) >= 0).all() and 0.05 < events.p.mean() < 0.98


def test_header_without_events(data):
    with pytest.raises(InputError, match="sample_aedat_header.aedat holds no events"):
        recordings.read(data / "events" / "sample_aedat_header.aedat")


def test_nmnist_as_tonic_reads_it(data):
    io = pytest.importorskip("tonic.io")
    path = data / "events" / "sample_nmnist.bin"
    theirs, ours = io.read_mnist_file(str(path), io.events_struct), recordings.read(path)
    for key in "txyp":
        assert np.array_equal(getattr(ours, key), theirs[key]), key


@pytest.mark.parametrize("name", [name for name in REAL if name.startswith("dvs128")])
def test_aedat2_as_tonic_reads_it_but_upright(data, name):
    """tonic's own function for the DVS128 fails; its raw reader does not. Ours turns the address as jAER does."""
    io = pytest.importorskip("tonic.io")
    path = data / "events" / name
    version, start, _ = io.read_aedat_header_from_file(str(path))
    raw, ours = io.get_aer_events_from_file(str(path), version, start), recordings.read(path)
    assert np.array_equal(ours.t, raw["timeStamp"])
    assert np.array_equal(127 - ours.x, raw["address"] >> 1 & 127) and np.array_equal(127 - ours.y, raw["address"] >> 8 & 127)
    assert np.array_equal(ours.p, raw["address"] & 1 == 0)


def test_davis_as_tonic_reads_it(tmp_path):
    io = pytest.importorskip("tonic.io")
    path = tmp_path / "davis.aedat"
    path.write_bytes(event_files.aedat2(some_events(500, 346, 260), "Davis346red"))
    size, _, theirs = io.read_davis_346(str(path))
    ours = recordings.read(path)
    assert size == ours[4:]
    for key in "txyp":
        assert np.array_equal(getattr(ours, key), theirs[key]), key


def test_aedat3_as_tonic_reads_it(data):
    io = pytest.importorskip("tonic.io")
    path = data / "DvsGesture" / "user01_fluorescent.aedat"
    version, start, _ = io.read_aedat_header_from_file(str(path))
    raw, ours = io.get_aer_events_from_file(str(path), version, start), recordings.read(path)
    assert len(ours.t) == 1_206_710 and np.array_equal(ours.t, raw["timeStamp"])
    assert np.array_equal(ours.x, raw["address"] >> 17) and np.array_equal(ours.y, raw["address"] >> 2 & 0x7FFF)
    assert np.array_equal(ours.p, raw["address"] >> 1 & 1)


def test_aedat4_as_evlib_reads_it_is_as_aedat_reads_it(data):
    pytest.importorskip("evlib")
    decoder = pytest.importorskip("aedat").Decoder(data / "events" / "sample.aedat4")
    size = next((stream["width"], stream["height"]) for stream in decoder.id_to_stream().values() if stream["type"] == "events")
    theirs = np.concatenate([packet["events"] for packet in decoder if "events" in packet])
    ours = recordings.read(data / "events" / "sample.aedat4")
    assert ours[4:] == size
    for mine, key in zip(ours, ("t", "x", "y", "on"), strict=False):
        assert np.array_equal(mine, theirs[key]), key


def test_evt2_as_expelliarmus_reads_it(data):
    pytest.importorskip("evlib")
    wizard = pytest.importorskip("expelliarmus").Wizard(encoding="evt2")
    theirs, ours = wizard.read(data / "events" / "evt2_sample.raw"), recordings.read(data / "events" / "evt2_sample.raw")
    for key in "txyp":
        assert np.array_equal(getattr(ours, key), theirs[key]), key


def test_dat_as_expelliarmus_reads_it(data):
    wizard = pytest.importorskip("expelliarmus").Wizard(encoding="dat")
    theirs, ours = wizard.read(data / "events" / "sample_ncars.dat"), recordings.read(data / "events" / "sample_ncars.dat")
    for key in "txyp":
        assert np.array_equal(getattr(ours, key), theirs[key]), key


def test_evt3_word_by_word(data):
    """By the format's definition; expelliarmus 1.1.12 adds 4,096 microseconds wherever the low time steps back a little."""
    pytest.importorskip("evlib")
    path = data / "events" / "evt3_sample.raw"
    content, start = path.read_bytes(), 0
    while content[start : start + 1] == b"%":
        start = content.index(b"\n", start) + 1
    high = low = 0
    times = []
    for word in np.frombuffer(content[start:], "<u2").tolist():
        kind, value = word >> 12, word & 0xFFF
        if kind == 8:
            high = value
        elif kind == 6:
            low = value
        number = {2: 1, 4: value.bit_count(), 5: (value & 0xFF).bit_count()}.get(kind, 0)
        times += [high << 12 | low] * number
    assert np.array_equal(recordings.read(path).t, times)


def test_clock_that_starts_again_and_small_disorder():
    events = some_events(100)
    late = events._replace(t=events.t + 2**32 - int(events.t[50]))
    assert same(formats.aedat2(event_files.aedat2(late._replace(t=late.t % 2**32)), "x"), late)
    assert same(formats.dat(event_files.dat(late._replace(t=late.t % 2**32)), "x"), late)
    mixed = Events(np.array([5, 3, 9]), np.arange(3), np.arange(3), np.arange(3) > 1, 3, 3)
    assert checked(mixed, "x").t.tolist() == [3, 5, 9] and checked(mixed, "x").x.tolist() == [1, 0, 2]


@pytest.mark.parametrize("ended", [b"", b"#End Of ASCII Header\r\n"])
def test_events_that_begin_like_a_line_of_the_header(ended):
    """Rows 116 and 117 of 260 of a DAVIS346, from the bottom 143 and 142, have addresses whose first byte is a #."""
    events = some_events(500, 346, 260)
    events = events._replace(y=np.where(np.arange(500) < 400, 117, events.y).astype(np.int16))
    content = event_files.aedat2(events, "eu.seebetter.ini.chips.davis.DAVIS346B")
    head = content.index(b"DAVIS346B\r\n") + 11
    assert content[head : head + 1] == b"#"
    assert same(formats.aedat2(content[:head] + ended + content[head:], "x"), events)


def test_between_takes_the_start_but_not_the_end():
    events = Events(np.array([1, 3, 3, 5]), *np.zeros((3, 4), int), 1, 1)
    assert between(events, 3, 5).t.tolist() == [3, 3] and between(events, 0, 9).t.tolist() == [1, 3, 3, 5]


EVENTS = some_events(600)
A2, A3, NM = event_files.aedat2(EVENTS), event_files.aedat3(EVENTS), event_files.nmnist(some_events(300, 34, 34, span=2**20))
DAT = event_files.dat(some_events(300, 304, 240))
HEADER = A3.index(b"END-HEADER") + 12
BACK = EVENTS._replace(t=EVENTS.t[::-1].copy())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.aedat", A2[:-3], "truncated"),
        ("a.aedat", A2.replace(b"DVS128", b"Abacus"), "unknown camera .Abacus"),
        ("a.aedat", A2.replace(b"DAT2.0", b"DAT1.0"), "not an AEDAT 2.0 or 3.1"),
        ("a.aedat", A2.replace(b"#!AER", b"#!WER"), "no recording of a known format"),
        ("a.aedat", A2[: A2.index(b"DVS128") + 8], "holds no events"),
        ("a.aedat", event_files.aedat2(BACK), "earlier than one before it"),
        ("a.aedat", A3[:-3], "packet at byte .* truncated"),
        ("a.aedat", A3[: HEADER + 20], "packet at byte .* truncated"),
        ("a.aedat", A3[:HEADER], "holds no events"),
        ("a.aedat", A3[: HEADER - 8], "header does not end"),
        ("a.aedat", event_files.aedat3(EVENTS._replace(x=EVENTS.x + 1000)), "is outside the sensor of 128 x 128"),
        ("a.aedat", event_files.aedat3(BACK), "earlier than one before it"),
        ("a.aedat", A3.replace(struct.pack("<HHI", 1, 1, 8), struct.pack("<HHI", 1, 1, 4)), "events of 4 bytes"),
        ("a.bin", NM[:-1], "truncated"),
        ("a.bin", b"", "holds no events"),
        ("a.bin", event_files.nmnist(some_events(99, 36, 34, seed=1)), "is outside the sensor of 34 x 34"),
        ("a.dat", DAT[:-1], "truncated"),
        ("a.dat", DAT[:20], "is not a .dat file of version 2"),
        ("a.dat", DAT[:30], "holds no events of pixels, or is truncated"),
        ("a.dat", DAT.replace(b"\0\x08", b"\x0e\x08", 1), "no events of pixels"),
        ("a.dat", DAT.replace(b"Width 304", b"Width 104"), "is outside the sensor of 104 x 240"),
        ("a.txt", b"1 2 3", "no recording of a known format"),
        ("a.txt", b"", "no recording of a known format"),
    ],
)
def test_damaged_recordings(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        recordings.read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_missing_recording(tmp_path):
    for path in (tmp_path / "none.aedat", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            recordings.read(path)


def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "evlib", None)
    (tmp_path / "a.raw").write_bytes(b"% evt 3.0\n% end\n1234")
    with pytest.raises(InputError, match="needs the package evlib: pip install 'fptt.recordings.'"):
        recordings.read(tmp_path / "a.raw")


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("% evt 3.0\n% geometry 640x480\n", (640, 480)),
        ("% Format EVT3;height=720;width=1280\n", (1280, 720)),
        ("% evt 2.0\n% plugin_name hal_plugin_gen3_fx3\n", (640, 480)),
        ("% evt 3.0\n% plugin_name hal_plugin_imx636_evk4\n", (1280, 720)),
        ("% evt 3.0\n", recordings.UNKNOWN),
    ],
)
def test_sensor_of_a_prophesee_header(header, size):
    assert recordings._size_of_prophesee(header.lower().encode()) == size


def mutated(content, number, seed=0):
    """The content with some bytes changed, more often at its start, and sometimes cut."""
    chance = random.Random(seed)
    for _ in range(number):
        copy = bytearray(content[: chance.randrange(len(content))] if chance.random() < 0.3 else content)
        for _ in range(chance.randrange(1, 20)):
            if copy:
                copy[chance.randrange(min(len(copy), chance.choice((64, 600, len(copy)))))] = chance.randrange(256)
        yield bytes(copy)


FUZZED = ["sample_nmnist.bin", "dvs128_alex_walking_again.aedat", "gesture.aedat", "sample_ncars.dat"]


@pytest.mark.parametrize("name", FUZZED)
def test_mutated_recordings(data, tmp_path, name):
    fuzz(data, tmp_path, name, 500)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample.aedat4", "evt2_sample.raw", "evt3_sample.raw"])
def test_mutated_recordings_of_evlib(data, tmp_path, name):
    fuzz(data, tmp_path, name, 500)


def fuzz(data, tmp_path, name, number):
    """Whatever is in a file, it is read or refused in one line, at once."""
    if name in LIBRARY:
        pytest.importorskip(LIBRARY[name])
    source = data / "DvsGesture" / "user01_fluorescent.aedat" if name == "gesture.aedat" else data / "events" / name
    path, refused = tmp_path / name, 0
    for content in mutated(source.read_bytes()[:200_000], number):
        path.write_bytes(content)
        start = time.monotonic()
        try:
            events = recordings.read(path)
            assert len(events.t) <= len(content) and events.x.max() < events.width and events.y.max() < events.height
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000
        assert time.monotonic() - start < 20
    assert 0 < refused <= number
