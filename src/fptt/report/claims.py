"""The published figures beside what was measured: how far each was tested, by the settings of the runs themselves."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from fptt.errors import InputError
from fptt.report.evidence import Evidence, Group, Measurement

AMOUNTS = {  # a run with fewer tests a claim in reduced form
    "batches", "channels", "epochs", "hidden", "length", "parameters", "size", "test_samples", "train_samples", "width"
}  # fmt: skip
OF_RULES = {"alpha", "approximate", "beta", "ema", "feedback", "form", "parts", "rho", "sampled", "window"}  # not of every rule
DIVISORS = {"pool", "shrink"}  # and so does one with more of these


@dataclass(frozen=True)
class Measured:
    """What was measured of a claim, under which conditions, and the paths that say so, relative to the folder of evidence."""

    value: str
    conditions: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """A published figure, None where it could not be read at its source, and what was measured of it, perhaps nothing."""

    claim: str
    published: str | None
    source: str
    link: str
    measured: tuple[Measured, ...]


def published() -> list[dict[str, Any]]:
    """The entries of published.yaml."""
    entries: list[dict[str, Any]] = yaml.safe_load(resources.files("fptt.report").joinpath("published.yaml").read_text())
    return entries


def claims(evidence: Evidence) -> list[Claim]:
    """Every published claim with the evidence that there is."""
    found = []
    for entry in published():
        measured = tuple(one for wanted in entry["evidence"] for one in _measured(wanted, evidence))
        found.append(Claim(entry["claim"], entry.get("published"), entry["source"], entry["link"], measured))
    return found


def _measured(wanted: dict[str, Any], evidence: Evidence) -> Iterator[Measured]:
    if "runs" in wanted:
        for group in evidence.groups:
            if matches(group, wanted["runs"]) and group.top in wanted.get("in", [group.top]):
                paths = tuple(dict.fromkeys(result.path for result in group.results))
                yield Measured(score(group), conditions(group, wanted.get("settings", {}), wanted.get("tell", [])), paths)
    elif "pairs" in wanted:
        yield from pairs(evidence.groups, *wanted["pairs"])
    elif "memory" in wanted:
        yield from (one for measurement in evidence.measurements for one in memory(measurement, wanted["memory"]))
    else:
        yield from value(evidence, wanted["file"], wanted["key"], wanted["text"])


def matches(group: Group, wanted: dict[str, Any]) -> bool:
    """Whether the runs have these settings; the rule, the neuron and the like are among them."""
    return all(group.first.get(key) == value for key, value in wanted.items())


def score(group: Group) -> str:
    """The group's score as text: a share in per cent, or an error; over several seeds the mean ± sample standard deviation."""
    name = group.first.score
    assert name
    values = group.values(name)
    mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
    if name.endswith("mse"):
        text = f"error {mean:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
    else:
        text = f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "") + " %"
    text += f" ({len(values)} seeds)" if len(values) > 1 else ""
    return text + (" on what it was trained on" if name.startswith("train") else "")


def conditions(group: Group, theirs: dict[str, Any], tell: list[str]) -> str:
    """What runs have otherwise than their source, then the settings to ``tell`` because the source leaves them open."""
    others, rest, reduced = [], [f"{_words(name)} {shown(group.first.get(name))}" for name in tell], False
    for name, value in theirs.items():
        ours = group.first.get(name)
        if ours is None and value is not None:
            rest.append(f"{_words(name)} not recorded")
        elif ours != value:
            fewer = name in AMOUNTS and _amount(ours) < _amount(value)
            reduced |= fewer or (name in DIVISORS and ours > value)
            others.append(f"{_words(name)} {shown(ours)} {'of' if fewer else 'instead of'} {shown(value) or 'none'}")
    return "; ".join([*([("reduced: " if reduced else "otherwise: ") + "; ".join(others)] if others else []), *rest])


def _amount(value: Any) -> float:
    return float(sum(value) if isinstance(value, list) else value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def shown(value: Any) -> str:
    """A setting or figure as text: numbers with thousands apart, lists with dashes."""
    if isinstance(value, list | tuple):
        return "-".join(shown(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def differing(first: Group, second: Group) -> list[str]:
    """The settings, but for the rule, in which two groups differ."""
    names = sorted((first.first.recipe.keys() | second.first.recipe.keys()) - {"rule"})
    return [name for name in names if first.first.get(name) != second.first.get(name)]


def pairs(groups: list[Group], rule: str, other: str) -> Iterator[Measured]:
    """Groups of ``rule``, each beside that of ``other`` in the same folder of evidence that is most like it, and it to that."""
    ours, theirs = ([group for group in groups if group.first.get("rule") == name] for name in (rule, other))
    for first in ours:
        second = _nearest(first, theirs)
        if second is None or _nearest(second, ours) is not first:
            continue
        names = [name for name in differing(first, second) if name not in OF_RULES]
        told = [f"{name} {shown(first.first.get(name))}, {shown(second.first.get(name))}" for name in names]
        same = "differing in " + "; ".join(told) if told else "otherwise the same settings"
        if first.first.updates != second.first.updates:
            same = f"updates per sequence {shown(first.first.updates)}, {shown(second.first.updates)}; {same}"
        paths = dict.fromkeys(result.path for group in (first, second) for result in group.results)
        text = f"{first.first.get('task')}, {first.first.get('neuron')}: {rule} {score(first)}, {other} {score(second)}"
        yield Measured(text, same, tuple(paths))


def _nearest(group: Group, others: list[Group]) -> Group | None:
    """Of the ``others`` with the same task, neuron and kind of score, the one that differs in the fewest settings.

    What their comparison has chosen for each of them, such as the rate, is not counted.
    """

    def kind(group: Group) -> tuple[Any, ...]:
        return group.top, group.first.get("task"), group.first.get("neuron"), group.first.score

    alike = [other for other in others if kind(other) == kind(group)]
    return min(alike, key=lambda other: len({*differing(group, other)} - {group.first.chosen}), default=None)


def memory(measurement: Measurement, rules: list[str]) -> Iterator[Measured]:
    """Training memory at the fewest and the most time steps, by rule, where a measurement varies them."""
    rows = [row for row in measurement.record.get("rows", []) if {"rule", "time_steps", "training_mb"} <= set(row)]
    steps = sorted({row["time_steps"] for row in rows})
    if len(steps) < 2:
        return
    texts = []
    for rule in rules:
        by_steps = {row["time_steps"]: row["training_mb"] for row in rows if row["rule"] == rule}
        if not {steps[0], steps[-1]} <= set(by_steps):
            return
        texts.append(f"{rule} {by_steps[steps[0]]:,.0f} → {by_steps[steps[-1]]:,.0f} MB")
    row = rows[0]
    network = f"{shown(row['parameters'])} parameters, batch {row['batch_size']}"
    if row.get("parts"):
        network += f", {rules[0]} in {row['parts']} parts, which grow with the sequence"
    yield Measured("; ".join(texts), f"{steps[0]:,} → {steps[-1]:,} steps; {network}", (measurement.path,))


def value(evidence: Evidence, path: str, key: str, text: str) -> Iterator[Measured]:
    """The value under the dotted ``key`` of one file, where that is there."""
    for measurement in evidence.measurements:
        if measurement.path == path:
            found: Any = measurement.record
            for name in key.split("."):
                if not isinstance(found, dict) or name not in found:
                    raise InputError(f"{path} has no '{key}', which the page of the published figures shows")
                found = found[name]
            yield Measured(text.format(shown(found)), "", (path,))
