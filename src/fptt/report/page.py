"""The page of the evidence, in Markdown: the same evidence gives the same bytes."""

import math
import os
import re
from pathlib import Path
from typing import Any

from fptt.report.claims import Claim, Measured, score, shown
from fptt.report.evidence import Evidence, Group, Measurement, Result, grouped

HEAD = """# Reproduction

This page is written by `fptt report` from the run folders and measurements in {results} alone; a test
fails where it says anything else. Scores are those of the last epoch on the test set, unless it says otherwise; ± is the sample
standard deviation over seeds.

## What was published

"Not quoted": the source reports a figure that could not be read there when this table was written. "Reduced" says in what a run
falls short of the source's: "epochs 6 of 250" are six here and 250 there.
"""
PROVENANCE = {"command", "seed", "version", "torch", "python", "machine"}


def page(evidence: Evidence, claims: list[Claim], root: Path, out: Path) -> str:
    """The whole page, to be written to ``out``: links lead from there to the folder of evidence, ``root``."""
    link = Link(Path(os.path.relpath(root.resolve(), out.resolve().parent)).as_posix())
    parts = [HEAD.format(results=link("", root.name)), _claims(claims, link)]
    parts += ["## Runs", *_runs(evidence, link)]
    if evidence.comparisons:
        parts.append("## Comparisons")
    for comparison in evidence.comparisons:
        parts += [f"### {link(comparison.path, comparison.path)}", link.moved(comparison.table, comparison.path)]
        parts += _pictures([f"{comparison.path}/{name}" for name in comparison.files if name.endswith(".png")], link)
        others = [name for name in comparison.files if not name.endswith(".png")]
        parts += [", ".join(link(f"{comparison.path}/{name}", name) for name in others), _commands(comparison.results)]
    if evidence.measurements:
        parts.append("## Measurements")
    for measurement in evidence.measurements:
        parts += [f"### {link(measurement.path, measurement.path)}", f"`{measurement.record['command']}`"]
        parts.append(f"fptt {measurement.record['version']}, {measurement.record['machine']}")
        parts += _pictures([measurement.picture] if measurement.picture else [], link)
        parts.append(_folded("figures", _figures(measurement)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


class Link:
    """Markdown links from the page to paths in the folder of evidence."""

    def __init__(self, base: str):
        self.base = base

    def __call__(self, path: str, text: str) -> str:
        return f"[{text}]({self.base}/{path})" if path else f"[{text}/]({self.base})"

    def moved(self, text: str, path: str) -> str:
        """Markdown that was written for the folder ``path``, for the page: its relative links lead where they led."""
        return re.sub(r"\]\((?!\w+:|/)", f"]({self.base}/{path}/", text)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _claims(claims: list[Claim], link: Link) -> str:
    rows = []
    for claim in claims:
        source = f"[{claim.source}]({claim.link})"
        head = [claim.claim, claim.published or "not quoted", source]
        for measured in claim.measured or [Measured("**not measured**", "", ())]:
            rows.append([*head, measured.value, measured.conditions, ", ".join(link(path, path) for path in measured.paths)])
            head = ["", "", ""]
    return table(["claim", "published", "source", "measured here", "conditions", "from"], rows)


def _runs(evidence: Evidence, link: Link) -> list[str]:
    parts = []
    tops = sorted({result.path.split("/")[0] for result in evidence.runs})
    for top in tops:
        results = [result for result in evidence.runs if result.path.split("/")[0] == top]
        groups = grouped(results)
        names = _varying(groups)
        head = ["runs", "task", "rule", "neuron", *(name.replace("_", " ") for name in names), "epochs", "parameters", "result"]
        rows = [_row(group, names, link) for group in groups]
        parts += [f"### {link(top, top)}", table([*head, "firing rate", "s an epoch", "peak MB"], rows)]
        parts += _pictures([picture for picture in evidence.pictures if picture.split("/")[0] == top], link)
        parts.append(_commands(results))
    return parts


def _varying(groups: list[Group]) -> list[str]:
    """The settings in which groups differ that have no column of their own."""
    names = sorted({name for group in groups for name in group.first.recipe} - {"task", "rule", "neuron", "epochs"})
    return [name for name in names if len({str(group.first.get(name)) for group in groups}) > 1]


def _row(group: Group, names: list[str], link: Link) -> list[str]:
    first = group.first
    runs = ", ".join(link(result.path, result.path.rpartition("/")[2]) for result in group.results)
    known = [first.get(name) for name in ("task", "rule", "neuron", *names, "epochs", "parameters")]
    rates = [rate for rate in group.values("firing_rate") if not math.isnan(rate)]  # where nothing spikes
    return [
        runs,
        *map(shown, known),
        score(group),
        f"{sum(rates) / len(rates):.3f}" if rates else "",
        _mean(group, "seconds_per_epoch"),
        _mean(group, "peak_memory_mb"),
    ]


def _mean(group: Group, name: str) -> str:
    values = group.values(name)
    return f"{sum(values) / len(values):,.1f}" if values else ""


def _pictures(paths: list[str], link: Link) -> list[str]:
    return [f"!{link(path, path)}" for path in paths]


def _commands(results: list[Result] | tuple[Result, ...]) -> str:
    lines = dict.fromkeys(str(result.summary["command"]) for result in results)
    where = sorted({f"fptt {result.summary['version']}, {result.summary['machine']}" for result in results})
    return _folded(f"commands ({'; '.join(where)})", "```sh\n" + "\n".join(lines) + "\n```")


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def _figures(measurement: Measurement) -> str:
    """A record's rows as a table of what varies, under a line of what does not; all else as names and values."""
    record = {key: value for key, value in measurement.record.items() if key not in PROVENANCE and key != "rows"}
    rows = [_flat(row) for row in measurement.record.get("rows", [])]
    parts = [table(["", ""], [[name, shown(value)] for name, value in _flat(record).items()])] if record else []
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        same = [name for name in names if len(rows) > 1 and all(name in row and row[name] == rows[0][name] for row in rows)]
        if same:
            parts.append(", ".join(f"{name} {shown(rows[0][name])}" for name in same))
        varying = [name for name in names if name not in same]
        parts.append(table(varying, [[shown(row.get(name)) for name in varying] for row in rows]))
    return "\n\n".join(parts)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}: {inner}": found for inner, found in _flat(value).items()}
        else:
            flat[name] = value
    return flat
