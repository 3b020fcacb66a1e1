"""Writes recordings in the formats of the data sets, and makes random events to write."""

import io
import struct
import tarfile
import zipfile

import numpy as np

from fptt.data.events import Events


def some_events(n=1000, width=128, height=128, seed=0, span=1_000_000):
    random = np.random.default_rng(seed)
    t = np.sort(random.integers(0, span, n))
    x, y = random.integers(0, width, n).astype(np.int16), random.integers(0, height, n).astype(np.int16)
    return Events(t, x, y, random.random(n) < 0.5, width, height)


def aedat2(events, chip="ch.unizh.ini.jaer.chip.retina.DVS128"):
    """jAER's layout: the sensor's columns from the right, rows from the bottom, polarity inverted for the DVS128."""
    x, y = events.width - 1 - events.x.astype(np.uint32), events.height - 1 - events.y.astype(np.uint32)
    if chip.endswith("DVS128"):
        address = x << 1 | y << 8 | ~events.p
    else:
        address = x << 12 | y << 22 | events.p.astype(np.uint32) << 11
    body = np.stack((address, events.t.astype(np.uint32)), 1).astype(">u4").tobytes()
    return f"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n# AEChip: {chip}\r\n".encode() + body


def aedat3(events, packet=256, source="DVS128"):
    """Packets of events, with one of another kind (special events) first and an invalid event at every packet's end."""
    content = f"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: {source}\r\n#!END-HEADER\r\n".encode()
    content += struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 1, 1, 1) + bytes(8)
    overflows = events.t >> 31
    for overflow in np.unique(overflows):
        now = np.flatnonzero(overflows == overflow)
        for start in range(0, len(now), packet):
            rows = now[start : start + packet]
            x, y, p = (values[rows].astype(np.uint32) for values in (events.x, events.y, events.p))
            address = np.append(x << 17 | y << 2 | p << 1 | 1, 5 << 17)
            t = np.append(events.t[rows] & 0x7FFFFFFF, events.t[rows[-1]] & 0x7FFFFFFF)
            number = len(rows) + 1
            content += struct.pack("<HHIIIIII", 1, 1, 8, 4, overflow, number, number, number - 1)
            content += np.stack((address, t), 1).astype("<u4").tobytes()
    return content


def nmnist(events):
    t = events.t
    return np.stack((events.x, events.y, events.p << 7 | t >> 16, t >> 8 & 255, t & 255), 1).astype(np.uint8).tobytes()


def dat(events):
    header = f"% Data file\n% Version 2\n% Width {events.width}\n% Height {events.height}\n".encode() + b"\0\x08"
    address = events.x | events.y.astype(np.uint32) << 14 | events.p.astype(np.uint32) << 28
    return header + np.stack((events.t, address), 1).astype("<u4").tobytes()


def same(a, b):
    return a[4:] == b[4:] and all(np.array_equal(mine, other) for mine, other in zip(a[:4], b[:4], strict=True))


def gesture_files(people=3, clips=2):
    """Names and contents of a DVS128 Gesture of as many recordings, the last one's for testing, and the clips in order."""
    files, expected = {}, []
    for person in range(1, people + 1):
        events = some_events(600 * clips, seed=person, span=100_000 * clips)
        name, table = f"user{person:02d}_lab", "class,startTime_usec,endTime_usec\n"
        for clip in range(clips):
            start, end, gesture = 100_000 * clip + 10_000, 100_000 * clip + 90_000, (person + clip) % 11 + 1
            table += f"{gesture},{start},{end}\n"
            inside = (events.t >= start) & (events.t < end)
            expected.append(
                (Events(*(values[inside] for values in events[:4]), 128, 128), gesture - 1, person == people, person)
            )
        files |= {f"DvsGesture/{name}.aedat": aedat3(events), f"DvsGesture/{name}_labels.csv": table.encode()}
    names = [f"user{person:02d}_lab.aedat\n" for person in range(1, people + 1)]
    files["DvsGesture/trials_to_train.txt"] = "".join(names[:-1]).encode()
    files["DvsGesture/trials_to_test.txt"] = names[-1].encode()
    return files, expected


def cifar10_dvs_files(each=10):
    """Names and contents of a CIFAR10-DVS of ``each`` tiny recordings of every class; event counts tell them apart."""
    from fptt.data.event_sets import CIFAR10

    return {
        f"{name}/cifar10_{name}_{number}.aedat": aedat2(some_events(50 + number, seed=100 * label + number))
        for label, name in enumerate(CIFAR10)
        for number in range(each)
    }


def nmnist_files(each=3):
    return {
        f"{part}/{digit}/{number:05d}.bin": nmnist(some_events(60, 34, 34, seed=10 * number + digit + len(part), span=300_000))
        for part in ("Train", "Test")
        for digit in range(10)
        for number in range(each)
    }


def write_folder(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_shd(path, recordings):
    """(times in seconds, channels, label, speaker) of every recording, in the layout of shd_train.h5."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, kind, column in (("spikes/times", np.float32, 0), ("spikes/units", np.uint16, 1)):
            ragged = file.create_dataset(name, (len(recordings),), h5py.vlen_dtype(kind))
            for i, recording in enumerate(recordings):
                ragged[i] = np.asarray(recording[column], kind)
        file["labels"] = np.array([recording[2] for recording in recordings], np.uint16)
        file["extra/speaker"] = np.array([recording[3] for recording in recordings], np.uint16)
