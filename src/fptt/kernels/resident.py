"""All steps of a part through a recurrent layer of LTC neurons whose weights stay on the processor.

``scan`` has to fetch a layer's weights at every step. In half precision those of 128 neurons fit into the shared memory of one
processor, and float16 has as many digits as TF32. That the current is linear leaves nothing to wait for within a step:

    current = X + z R^T
    a       = sigma(X Wc_1^T + c_1 + z (Wc_1 R)^T + v Wv^T)
    r       = sigma(X Wc_2^T + c_2 + z (Wc_2 R)^T + b Wb^T)

What has X is one product of large matrices for all steps; the five others take the state as it was before the step.
"""

# ruff: noqa: PLR0917 - a kernel has as many arguments as it reads and writes
# mypy: allow-untyped-defs, allow-incomplete-defs
from __future__ import annotations  # those of kernels name Triton

import functools
from typing import TYPE_CHECKING, Any

import torch

from fptt.kernels.blocks import elements, jitted, keep, load, load_transposed, ltc_backward, ltc_forward, power_of_two, store

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = None  # until the first kernel starts

WIDEST = 128  # neurons of a layer


def resident_forward(
    X, G, V, Z, A, current, a_out, r_out, u_out, R, M, Wv, Wb,
    steps, B, b0,
    H: tl.constexpr, STRENGTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """As ``scan.scan_forward``; G [steps, B, 2 H] is what gates have of X, and M [2 H, H] = Wc R."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    size = elements(B, H)
    of_x = load_transposed(R, n, n, H, H, H).to(tl.float16)
    a_of_z = load_transposed(M, n, n, H, H, H).to(tl.float16)
    r_of_z = load_transposed(M + H * H, n, n, H, H, H).to(tl.float16)
    of_v = load_transposed(Wv, n, n, H, H, H).to(tl.float16)
    of_b = load_transposed(Wb, n, n, H, H, H).to(tl.float16)
    v, z, b = load(V, m, n, H, B, H), load(Z, m, n, H, B, H), load(A, m, n, H, B, H)
    x_in, a_in, r_in = load(X, m, n, H, B, H), load(G, m, n, 2 * H, B, H), load(G + H, m, n, 2 * H, B, H)
    for t in range(steps):
        at = t * size
        after = tl.minimum(t + 1, steps - 1) * size  # of the next step, on its way while this one computes
        x_next = load(X + after, m, n, H, B, H)
        a_next, r_next = load(G + 2 * after, m, n, 2 * H, B, H), load(G + 2 * after + H, m, n, 2 * H, B, H)
        spikes = z.to(tl.float16)
        x = tl.dot(spikes, of_x) + x_in
        a = tl.sigmoid(tl.dot(v.to(tl.float16), of_v, tl.dot(spikes, a_of_z)) + a_in)
        r = tl.sigmoid(tl.dot(b.to(tl.float16), of_b, tl.dot(spikes, r_of_z)) + r_in)
        u, v, z, b = ltc_forward(x, a, r, v, z, b, b0, STRENGTH)
        store(current + at, m, n, H, B, H, x)
        keep(V, Z, A, a_out, r_out, u_out, a, r, u, v, z, b, at, m, n, H, B)
        x_in, a_in, r_in = x_next, a_next, r_next


def resident_backward(
    dV, dZ, dA, V, Z, A, current, a_in, r_in, u_in, R, M, Wv, Wb, peak, D, dx_out, dv_out, dz_out, db_out,
    steps, B, b0,
    H: tl.constexpr, STRENGTH: tl.constexpr, HAS_DV: tl.constexpr, HAS_DZ: tl.constexpr, HAS_DA: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """As ``scan.scan_backward``, but ``dx_out`` does not have what goes through the gates.

    ``peak``: the largest of the gradients that are given, one number, which brings them into the range of float16.
    """
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    size = elements(B, H)
    of_x = load(R, n, n, H, H, H).to(tl.float16)
    a_of_z, r_of_z = load(M, n, n, H, H, H).to(tl.float16), load(M + H * H, n, n, H, H, H).to(tl.float16)
    of_v, of_b = load(Wv, n, n, H, H, H).to(tl.float16), load(Wb, n, n, H, H, H).to(tl.float16)
    back = tl.exp2(tl.floor(tl.log2(tl.maximum(tl.load(peak), 1e-30))))  # whose inverse is a number
    scale = 1 / back
    dv = tl.zeros([ROWS, COLUMNS], tl.float32)
    dz = tl.zeros([ROWS, COLUMNS], tl.float32)
    db = tl.zeros([ROWS, COLUMNS], tl.float32)
    at = (steps - 1) * size
    fired, adaptation = load(Z + at + size, m, n, H, B, H), load(A + at + size, m, n, H, B, H)
    u, a, r = load(u_in + at, m, n, H, B, H), load(a_in + at, m, n, H, B, H), load(r_in + at, m, n, H, B, H)
    x, v = load(current + at, m, n, H, B, H), load(V + at, m, n, H, B, H)
    z, b = load(Z + at, m, n, H, B, H), load(A + at, m, n, H, B, H)
    for step in range(steps):
        at = (steps - 1 - step) * size
        before = tl.maximum(steps - 2 - step, 0) * size  # on its way while this step computes
        u_next, a_next = load(u_in + before, m, n, H, B, H), load(a_in + before, m, n, H, B, H)
        r_next, x_next = load(r_in + before, m, n, H, B, H), load(current + before, m, n, H, B, H)
        v_next = load(V + before, m, n, H, B, H)
        z_next, b_next = load(Z + before, m, n, H, B, H), load(A + before, m, n, H, B, H)
        if HAS_DV:
            dv += load(dV + at + size, m, n, H, B, H) * scale
        if HAS_DZ:
            dz += load(dZ + at + size, m, n, H, B, H) * scale
        if HAS_DA:
            db += load(dA + at + size, m, n, H, B, H) * scale
        du, db, through_a, through_r = ltc_backward(dv, dz, db, x, a, r, u, v, z, b, fired, adaptation, b0, STRENGTH)
        dx = a * du
        store(D + 2 * at, m, n, 2 * H, B, H, through_a * back)
        store(D + 2 * at + H, m, n, 2 * H, B, H, through_r * back)
        store(dx_out + at, m, n, H, B, H, dx * back)
        to_a, to_r, to_x = halved(through_a), halved(through_r), halved(dx)
        dv = tl.dot(to_a, of_v) + (1 - a) * du
        dz = tl.dot(to_x, of_x, tl.dot(to_a, a_of_z, tl.dot(to_r, r_of_z))) + (1 - r) * db
        db = tl.dot(to_r, of_b) + r * db
        fired, adaptation, z, b = z, b, z_next, b_next
        u, a, r, x, v = u_next, a_next, r_next, x_next, v_next
    store(dv_out, m, n, H, B, H, dv * back)
    store(dz_out, m, n, H, B, H, dz * back)
    store(db_out, m, n, H, B, H, db * back)


def halved(x):
    """``x`` in float16, its largest number where it is larger."""
    return tl.clamp(x, -65504.0, 65504.0).to(tl.float16)


@functools.cache
def kernels() -> Any:
    """The kernels, by name."""
    return jitted(globals(), (resident_forward, resident_backward), (halved,))


def fits(features: int, precision: str, device: torch.device) -> bool:
    """Whether a layer of so many neurons has room for its weights on ``device``, at this precision of products."""
    room = 2**18  # of an interpreter
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        room = card.shared_memory_per_block_optin if card.major >= 8 else 0  # older ones have no TF32
    columns = power_of_two(features)
    return precision == "tf32" and columns <= WIDEST and 10 * columns**2 + 96 * columns <= room  # five matrices, three states


def warps(features: int) -> int:
    return power_of_two(features) // 16
