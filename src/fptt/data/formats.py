"""The plain formats of recorded data: AEDAT 2.0 (CIFAR10-DVS), AEDAT 3.1 (DVS128 Gesture), N-MNIST's .bin, Prophesee's .dat.

Read here with numpy because no kept library reads them beside a current torch: tonic 1.7 raises ValueError on every DVS128
file, ``spikingjelly.datasets`` cannot be imported without a torchaudio that fits torch, what does read N-MNIST (tonic) brings
a compiler and an audio library for five bytes an event, and expelliarmus, the one reader of .dat, last released in 2023, never
returns from a file that ends in its header. The formats are those of iniVation's specification
(https://docs.inivation.com/software/software-advanced-usage/file-formats), of the N-MNIST paper (Orchard et al. 2015) and of
Prophesee (https://docs.prophesee.ai/stable/data/file_formats/dat.html).
All functions take the file's content, so that files inside archives need no unpacking, and raise InputError.
"""

import re
import struct

import numpy as np
from numpy.typing import NDArray

from fptt.data.events import Events, checked
from fptt.errors import InputError

SENSORS = {
    "DVS128": (128, 128),
    "DAVIS240": (240, 180),
    "DAVIS346": (346, 260),
}  # width, height by the start of the chip's name
POLARITY_EVENTS = 1  # AEDAT 3.1's number for packets of events of pixels
PACKET_HEADER = struct.Struct("<HHIIIIII")  # type, source, event size, offset of t, overflows of t, capacity, number, valid


def version(content: bytes) -> str:
    """The format's version, such as "2.0", of an AEDAT file of any kind; empty for other files."""
    match = re.match(rb"#!AER-DAT(\d\.\d)\r?\n", content)
    return match[1].decode() if match else ""


def aedat(content: bytes, name: str) -> Events:
    """Events of an AEDAT 2.0 or 3.1 file."""
    reader = {"2.0": aedat2, "3.1": aedat3}.get(version(content))
    if reader is None:
        raise InputError(f"{name} is not an AEDAT 2.0 or 3.1 recording: it starts with {content[:14]!r}")
    return reader(content, name)


def aedat2(content: bytes, name: str) -> Events:
    """Events of an AEDAT 2.0 file: big-endian pairs of a 32-bit address and a 32-bit time in microseconds.

    Addresses and orientation are those of jAER, which wrote the files. DVS128: bit 0 is set where it became darker, bits 1-7
    count columns from the right, 8-14 rows from the bottom. DAVIS: bit 11 is set where it became brighter, bits 12-21 and
    22-30 are column and row likewise; samples of the frame sensor (bit 31) and external signals (bit 10) are left out.
    """
    header = re.match(rb"(?:#[^\n]*\n)*?#End Of ASCII Header\r?\n", content) or re.match(rb"(?:#[\t -~]*\r?\n)+", content)
    start = header.end() if header else 0  # the first event may begin with a # as well
    chip, width, height = _sensor(re.search(rb"# AEChip: ([\w.]+)", content[:start]), name)
    if (len(content) - start) % 8:
        raise InputError(f"{name} is truncated: it ends within an event; copy it again")
    address, t = np.frombuffer(content, ">u4", offset=start).astype(np.uint32).reshape(-1, 2).T
    if chip == "DVS128":
        x, y, p = address >> 1 & 0x7F, address >> 8 & 0x7F, address & 1 == 0
        pixel = address >> 15 == 0
    else:
        x, y, p = address >> 12 & 0x3FF, address >> 22 & 0x1FF, address >> 11 & 1 == 1
        pixel = address & (1 << 31 | 1 << 10) == 0
    x, y, p = x[pixel].astype(np.int32), y[pixel].astype(np.int32), p[pixel]
    return checked(Events(_unwrapped(t[pixel]), width - 1 - x, height - 1 - y, p, width, height), name)


def aedat3(content: bytes, name: str) -> Events:
    """Events of an AEDAT 3.1 file: packets of little-endian pairs of address and time, each packet with a header.

    Bit 0 of the address marks an event that is valid, bit 1 that it became brighter, bits 2-16 are the row from the top,
    17-31 the column. Packets of other kinds (frames, inertial sensors) are skipped.
    """
    end = content.find(b"#!END-HEADER\r\n")
    if end < 0:
        raise InputError(f"{name} is damaged: its header does not end")
    _, width, height = _sensor(re.search(rb"#Source \d+: ([\w.]+)", content[:end]), name)
    place, packets = end + 14, [np.empty((0, 2), np.uint32)]
    overflows = [np.empty(0, np.int64)]
    while place < len(content):
        packet = f"{name} is damaged: the packet at byte {place}"
        if len(content) - place < PACKET_HEADER.size:
            raise InputError(f"{packet} is truncated; copy the file again")
        kind, _, size, _, overflow, capacity, number, _ = PACKET_HEADER.unpack_from(content, place)
        place += PACKET_HEADER.size
        if len(content) - place < capacity * size:
            raise InputError(f"{packet} is truncated; copy the file again")
        if kind == POLARITY_EVENTS:
            if size != 8 or number > capacity:
                raise InputError(f"{packet} has {number} events of {size} bytes in room for {capacity} of 8")
            packets.append(np.frombuffer(content, "<u4", 2 * number, place).reshape(-1, 2))
            overflows.append(np.full(number, overflow, np.int64))
        place += capacity * size
    address, t = np.concatenate(packets).T
    valid = address & 1 == 1
    address, t = address[valid], (t + (np.concatenate(overflows) << 31))[valid]
    x, y = (address >> 17).astype(np.int32), (address >> 2 & 0x7FFF).astype(np.int32)
    return checked(Events(t, x, y, address >> 1 & 1 == 1, width, height), name)


def nmnist(content: bytes, name: str, width: int = 34, height: int = 34) -> Events:
    """Events of an N-MNIST .bin file: 5 bytes each, column, row, a bit of polarity (1: brighter) and 23 of microseconds.

    Row 240 marks no event but 8,192 microseconds more on the clock, as in the publishers' reader.
    """
    if len(content) % 5:
        raise InputError(f"{name} is truncated: {len(content)} bytes are no whole number of 5-byte events; copy it again")
    columns = np.frombuffer(content, np.uint8).reshape(-1, 5).astype(np.int64).T
    x, y, high, middle, low = columns
    t = ((high & 0x7F) << 16 | middle << 8 | low) + (np.cumsum(y == 240) << 13)
    pixel = y != 240
    return checked(Events(t[pixel], x[pixel], y[pixel], high[pixel] >> 7 == 1, width, height), name)


def dat(content: bytes, name: str) -> Events:
    """Events of a .dat file, version 2: 8 bytes each, time in microseconds, 14 bits of column, 14 of row and 4 of polarity.

    Where the header does not give the sensor's size, the sensor is taken to end at the outermost events (N-CARS).
    """
    header = re.match(rb"(%[^\n]*\n)+", content)
    if header is None or not re.search(rb"^% version 2\b", header[0].lower(), re.MULTILINE):
        raise InputError(f"{name} is not a .dat file of version 2")
    start = header.end() + 2
    if content[start - 2 : start] not in (b"\0\x08", b"\x0c\x08"):
        raise InputError(f"{name} holds no events of pixels, or is truncated")
    if (len(content) - start) % 8:
        raise InputError(f"{name} is truncated: it ends within an event; copy it again")
    t, address = np.frombuffer(content, "<u4", offset=start).reshape(-1, 2).T
    x, y = (address & 0x3FFF).astype(np.int16), (address >> 14 & 0x3FFF).astype(np.int16)
    sizes = [re.search(rb"^% " + side + rb" (\d+)", header[0].lower(), re.MULTILINE) for side in (b"width", b"height")]
    width, height = (int(size[1]) if size else int(last.max(initial=0)) + 1 for size, last in zip(sizes, (x, y), strict=True))
    return checked(Events(_unwrapped(t), x, y, address >> 28 & 1 == 1, width, height), name)


def _unwrapped(t: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Times of a clock of 32 bits, which starts again from 0 after 71.6 minutes, as those of one that does not."""
    longer = t.astype(np.int64)
    return longer + (np.cumsum(np.diff(longer, prepend=longer[:1]) < -(2**31)) << 32)


def _sensor(match: re.Match[bytes] | None, name: str) -> tuple[str, int, int]:
    """Chip and size of the sensor that an AEDAT header names."""
    chip = match[1].decode().rsplit(".", 1)[-1] if match else "unnamed"
    for known, (width, height) in SENSORS.items():
        if chip.upper().startswith(known):
            return known, width, height
    raise InputError(f"{name} is of an unknown camera ({chip}): known are {', '.join(SENSORS)}")
