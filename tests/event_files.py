"""Writes recordings in the formats of the data sets, and makes random events to write."""

import struct

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
