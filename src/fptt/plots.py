"""Pictures of runs: learning curves, spike rasters, membrane and time-constant traces; PNG and SVG.

Figures are matplotlib's. In a notebook each is shown by its cell; elsewhere nothing is shown, ``save`` writes it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike

from fptt.errors import InputError

BACKEND = os.environ.get("MPLBACKEND", "")
plt.switch_backend(BACKEND if BACKEND.startswith("module://") else "agg")  # a notebook's own; no windows anywhere

COLOURS = ("#3b6fb6", "#d1603d", "#3f9b6c", "#8a5fa8", "#c9a227", "#6b7280")
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` in the format of the path's suffix. Raises InputError where that cannot be done."""
    try:
        if not path.suffix:
            raise ValueError("it has no suffix, which says the format")
        figure.savefig(path, dpi=150, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the picture {path} ({error}): give another --out, ending in .png or .svg") from None
    finally:
        plt.close(figure)


def curves(runs: Sequence[tuple[str, list[dict[str, Any]]]]) -> Figure:
    """Loss and score against the epoch for each (label, rows of metrics.jsonl): training dashed, validation solid."""
    present = {key for _, rows in runs for key in rows[0]}
    scores = [key for key in ("accuracy", "map50") if {key, f"validation_{key}"} & present]
    keys = ("loss", *scores) if "mse" not in present else ("mse",)  # there the loss is the score
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(keys), figsize=(4.2 * len(keys) + 2.2, 3.4), squeeze=False, layout="constrained")
        for axis, key in zip(axes[0], keys, strict=True):
            for (label, rows), colour in zip(runs, COLOURS * len(runs), strict=False):
                epochs = [row["epoch"] for row in rows]
                marker = "o" if len(rows) < 3 else None
                validated = f"validation_{key}" in rows[0]
                if key in rows[0]:
                    axis.plot(
                        epochs,
                        [row[key] for row in rows],
                        "--" if validated else "-",
                        color=colour,
                        alpha=0.6 if validated else 1,
                        marker=marker,
                        label=f"{label}, training",
                    )
                if validated:
                    axis.plot(
                        epochs,
                        [row[f"validation_{key}"] for row in rows],
                        color=colour,
                        marker=marker,
                        label=f"{label}, validation",
                    )
            axis.set(xlabel="epoch", ylabel={"mse": "mean squared error", "map50": "mAP at IoU 0.5"}.get(key, key))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            if max(len(rows) for _, rows in runs) == 1:
                axis.set_xticks([1])
            if key in ("loss", "mse"):
                axis.set_yscale("log")
                low, high = axis.get_ylim()
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 5 * low else (1, 1.5, 2, 3, 5, 7)))
                axis.yaxis.set_major_formatter("{x:,g}")
                axis.yaxis.minorticks_off()
        axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def steps(runs: Sequence[tuple[str, Sequence[float]]], metric: str) -> Figure:
    """The ``metric`` after each time step for each (label, values); against the share of the sequence where lengths differ."""
    alike = len({len(values) for _, values in runs}) == 1
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
        for (label, values), colour in zip(runs, COLOURS * len(runs), strict=False):
            ends = np.arange(1, len(values) + 1)
            marker = "o" if len(values) <= 30 else None
            axis.plot(ends if alike else ends / len(values), values, color=colour, marker=marker, markersize=4, label=label)
        axis.set(xlabel="time steps seen" if alike else "share of the sequence seen")
        axis.set_ylabel("mean squared error" if metric == "mse" else metric)
        axis.set_ylim(bottom=0)
        if alike:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def benchmark(rows: Sequence[dict[str, Any]], varied: str) -> Figure:
    """Step time and memory of each rule against what varied, from the rows of ``fptt benchmark``."""
    values = sorted({row[varied] for row in rows})
    panels = {"step_ms": "time per step (ms)", "training_mb": "memory of training (MB)"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
        for axis, (key, label) in zip(axes, panels.items(), strict=True):
            for rule, colour in zip(dict.fromkeys(row["rule"] for row in rows), COLOURS, strict=False):
                points = [(row[varied], row[key]) for row in rows if row["rule"] == rule]
                axis.loglog(*zip(*points, strict=True), "o-", color=colour, label=rule.upper())
            axis.set(xlabel=varied.replace("_", " "), ylabel=label)
            axis.set_xticks(values, [f"{value:,}" for value in values])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:,g}")
            axis.minorticks_off()
            axis.set_ylim(bottom=0.5 * min(row[key] for row in rows), top=2 * max(row[key] for row in rows))
        axes[0].legend()
    return figure


def comparison(table: Sequence[dict[str, Any]], axes: Sequence[str], names: dict[str, str]) -> Figure:
    """Mean score and standard deviation of each cell of ``fptt compare``.

    The first axis goes down, the second is told by colours, the others by panels; ``names`` are those of the scores.
    """
    panels = list(dict.fromkeys((tuple(row[axis] for axis in axes[2:]), row["score"]) for row in table))
    down = list(dict.fromkeys(row[axes[0]] for row in table))
    kinds = list(dict.fromkeys(row[axes[1]] for row in table)) if len(axes) > 1 else [None]
    with plt.rc_context(STYLE):
        size = (1.6 + 3.4 * len(panels), 1.2 + 0.22 * len(down) * (len(kinds) + 0.6))
        alike = len({score for _, score in panels}) == 1  # and then drawn to one scale
        figure, drawn = plt.subplots(
            1, len(panels), figsize=size, sharex=alike, sharey=True, squeeze=False, layout="constrained"
        )
        for (others, score), axis in zip(panels, drawn[0], strict=True):
            scale = 1 if score == "test_mse" else 100
            for number, (kind, colour) in enumerate(zip(kinds, COLOURS * len(kinds), strict=False)):
                rows = [
                    row
                    for row in table
                    if tuple(row[name] for name in axes[2:]) == others
                    and row["score"] == score
                    and (kind is None or row[axes[1]] == kind)
                ]
                places = [down.index(row[axes[0]]) + 0.8 * ((number + 0.5) / len(kinds) - 0.5) for row in rows]
                spreads = [scale * (row["sd"] or 0) for row in rows]
                axis.errorbar([scale * row["mean"] for row in rows], places, xerr=spreads, fmt="o", color=colour, label=kind)
            axis.set_xlabel(f"{names[score]}{' (%)' if scale == 100 else ''}")
            axis.set_title(", ".join(others), loc="left")
            axis.set_yticks(range(len(down)), down)
            if scale == 1:
                axis.set_xscale("log")
        drawn[0, 0].invert_yaxis()
        drawn[0, 0].set_ylabel(axes[0])
        if kinds != [None]:
            drawn[0, -1].legend(title=axes[1], loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def raster(layers: Sequence[dict[str, Any]], title: str = "", sample: int = 0) -> Figure:
    """Spikes of each layer for one sample; ``layers`` as returned by ``training.record.record``."""
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(
            len(layers), 1, figsize=(8, 2.2 * len(layers) + 0.6), sharex=True, squeeze=False, layout="constrained"
        )
        for number, (layer, axis) in enumerate(zip(layers, axes[:, 0], strict=True), 1):
            z = np.asarray(layer["z"])[:, sample]
            steps, neurons = np.nonzero(z)
            size = min(max(1.5, 100 / len(z)), max(1.0, (110 / z.shape[1]) ** 2))  # points squared: one row, or what is seen
            axis.scatter(steps, neurons, s=size, marker="|", color=COLOURS[(number - 1) % len(COLOURS)])
            axis.set(ylabel="neuron", ylim=(-1, z.shape[1]), xlim=(-0.5, len(z) - 0.5))
            axis.set_title(f"layer {number}: {z.mean():.3f} spikes per neuron and step", loc="left")
        axes[-1, 0].set_xlabel("time step")
        axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(title, fontsize=11)
    return figure


def traces(layers: Sequence[dict[str, Any]], title: str = "", sample: int = 0, neurons: int = 3, b0: float = 0.1) -> Figure:
    """Membrane potential with threshold and spikes, and time constants, of the most active neurons of the last layer."""
    layer = {name: np.asarray(values)[:, sample] for name, values in layers[-1].items()}
    chosen = np.argsort(-layer["z"].sum(0), kind="stable")[:neurons]
    steps = np.arange(len(layer["z"]))
    rates = [name for name in ("inv_tau_m", "rho") if name in layer]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(chosen), 2, figsize=(10, 1.9 * len(chosen) + 0.6), sharex=True, squeeze=False, layout="constrained"
        )
        for n, (left, right) in zip(chosen, axes, strict=True):
            threshold = b0 + 1.8 * layer["b"][:, n] if "b" in layer else np.full(len(steps), b0)
            left.plot(steps, layer["v"][:, n], color=COLOURS[0], label="membrane potential v, after reset")
            left.plot(steps, threshold, color=COLOURS[1], linewidth=1, label="threshold")
            fired = steps[layer["z"][:, n] > 0]
            left.plot(fired, threshold[fired], "|", color="black", markersize=9, label="spike")
            left.set_ylabel(f"neuron {n}")
            for name, colour in zip(rates, COLOURS[2:], strict=False):
                label = {"inv_tau_m": "inverse membrane time constant", "rho": "retention of the adaptation"}[name]
                right.plot(steps, layer[name][:, n], color=colour, label=label)
            right.set(ylim=(0, 1), ylabel="per step")
        for axis in axes[0]:
            axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
        for axis in axes[-1]:
            axis.set_xlabel("time step")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(title, fontsize=11)
    return figure


def over_frames(firing_rates: Sequence[float], detections: Sequence[int]) -> Figure:
    """Firing rate and number of detections of each frame of a video."""
    panels = {"detections": detections, "spikes per neuron and step": firing_rates}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 1, figsize=(4.6, 3.6), sharex=True, layout="constrained")
        for axis, (label, values), colour in zip(axes, panels.items(), COLOURS[1::-1], strict=True):
            axis.plot(range(1, len(values) + 1), values, color=colour)
            axis.set_title(label, loc="left")
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_locator(MaxNLocator(4, integer=label == "detections"))
        axes[-1].set_xlabel("frame")
        axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def lines(
    panels: Mapping[str, Mapping[str, Sequence[ArrayLike]]], xlabel: str, ylabel: str, *, log: str = "", marker: str = ""
) -> Figure:
    """Lines in panels side by side, by the panels' titles and the lines' labels; equal labels have equal colours.

    Args:
        panels: for each line (x, y), or (x, y, deviation) for a band of y plus and minus the deviation.
        log: axes that are logarithmic, "x", "y" or "xy".
        marker: matplotlib's, for points.
    """
    labels = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    colours = dict(zip(labels, COLOURS * len(labels), strict=False))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(3.1 * len(panels) + 2.4, 3.2), sharey=True, squeeze=False, layout="constrained"
        )
        handles = {}
        for axis, (title, panel) in zip(axes[0], panels.items(), strict=True):
            for label, (x, y, *deviation) in panel.items():
                style = "-" if labels.index(label) < len(COLOURS) else "--"
                (handles[label],) = axis.plot(x, y, style, marker=marker, markersize=4, color=colours[label])
                for d in deviation:
                    low, high = np.asarray(y) - np.asarray(d), np.asarray(y) + np.asarray(d)
                    axis.fill_between(np.asarray(x), low, high, color=colours[label], alpha=0.2, linewidth=0)
            axis.set_title(title, loc="left")
            axis.set_xlabel(xlabel)
            for name in log:
                axis.set(**{f"{name}scale": "log"})
                scale = {"x": axis.xaxis, "y": axis.yaxis}[name]
                scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
                scale.set_major_formatter("{x:,g}")
            values = sorted({value for x, *_ in panel.values() for value in np.asarray(x).tolist()})
            if "x" in log and len(values) <= 6:
                axis.set_xticks(values)
            elif "x" in log and values[-1] > 100 * values[0]:  # more labels would run into each other
                axis.xaxis.set_major_locator(LogLocator())
            axis.minorticks_off()
        axes[0, 0].set_ylabel(ylabel)
        axes[0, -1].legend(handles.values(), handles, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def surfaces(x: ArrayLike, y: ArrayLike, panels: Mapping[str, ArrayLike], *, xlabel: str, ylabel: str, label: str) -> Figure:
    """Values [y, x] over a plane in panels side by side, by their titles, on one scale of colours that ``label`` names."""
    values = [np.asarray(panel) for panel in panels.values()]
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(3 * len(panels) + 1.2, 3), sharey=True, squeeze=False, layout="constrained"
        )
        for axis, title, panel in zip(axes[0], panels, values, strict=True):
            mesh = axis.pcolormesh(np.asarray(x), np.asarray(y), panel, vmin=low, vmax=high, cmap="viridis", rasterized=True)
            axis.set_title(title, loc="left")
            axis.set_xlabel(xlabel)
        axes[0, 0].set_ylabel(ylabel)
        figure.colorbar(mesh, ax=list(axes[0]), label=label)
    return figure
