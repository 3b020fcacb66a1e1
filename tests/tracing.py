"""Figures on a Markdown page, traced to the records of results/ that are linked beside them.

A table row, list item or paragraph that links to records (run folders, folders of them, measurements) may hold no number that
does not follow from those, unless it is a setting. Elsewhere a number with a unit or a decimal point needs such a link.

A number follows from a record if one of its values, in the number's unit, rounds to it as it is shown: a value itself, a share
as per cent, the duration of a training, or the ratio of two values of one kind. Of runs that differ in their seed alone it is
the mean, or behind it the sample standard deviation; a single one must be linked by itself. A whole number without a unit is a
whole number of the record, or has the unit of the number before it in its sentence.
"""

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from fptt.report.evidence import Evidence, Result, grouped
from fptt.report.reading import read

NUMBER = re.compile(
    r"(?<![\w.,/^-])(?:1/)?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\w|\.\d)|(?<![\w.,/^-])(?:1/)?\d+(?:\.\d+)?(?!\w|-|\.\d)"
)
UNIT = re.compile(r"\s*(%|MB|GB|ms|us|s|min|minutes|hours|million|times|events|frames a second|nJ)(?!\w)")
JOINT = re.compile(r"\s*(?:±|to|and|,|of)\s*")  # "4.0 and 4.6 %": what follows the last number holds for all
SETTING = re.compile(
    r"\d+ x \d+|\d+(?:-\d+){2,}|\b[A-Z] = [\d,]+|\b(?:19|20)\d\d\b|\bIoU [\d.]+|\bbatch(?: of)? \d+|\bwidth \d+"
    r"|\b(?:Python|AEDAT|tonic|CC BY|CC BY-SA) [\d.]+|\bdoi\.org/[\d./a-z]+"
    r"|\b[\d,]+ (?:time |LTC )?(?:steps?|epochs?|seeds?|cores?|layers?|updates?|channels?|pixels?|neurons?|iterations?)\b"
)
KINDS = {  # of each unit: the names of the values that may have it, and what makes them numbers of it
    "MB": (r"_mb$", 1),
    "GB": (r"_mb$", 1e-3),
    "ms": (r"_ms", 1),
    "us": (r"_us", 1),
    **{unit: (r"_s$|seconds", 1 / seconds) for unit, seconds in {"s": 1, "min": 60, "minutes": 60, "hours": 3600}.items()},
    "times": (r"times|_over_", 1),
    "frames a second": (r"frames_per_second", 1),
    "events": (r"events", 1),
    "nJ": (r"_nj$", 1),
    "error": (r"mse$", 1),
    "": (r"", 1),
}
NO_SHARES = re.compile(r"loss|mse|_s$|seconds|_ms|_us|_mb|lr|alpha|beta")  # what is no share, though it lies between 0 and 1
PERCENT = re.compile(r"voc_|coco_|published|per_class")  # shares that are per cent in their record


@dataclass(frozen=True)
class Figure:
    """A number on a page: where it starts in its block, its unit, and the unit before it in its sentence.

    A unit is one of ``UNIT``, "error" for an error, or "" for none.
    """

    text: str
    start: int
    unit: str
    carried: str = ""
    mean: str = ""  # of which this is the spread, written before the sign ±

    @property
    def measured(self) -> bool:
        return bool(self.unit) or "." in self.text


def blocks(text: str) -> Iterator[str]:
    """Paragraphs, list items and table rows, without code, headings and pictures."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    for part in re.split(r"\n\s*\n", text):
        if part.lstrip().startswith("|"):
            yield from part.strip().splitlines()[2:]
        elif not part.lstrip().startswith("#"):
            yield from (" ".join(item.split()) for item in re.split(r"\n(?=- )", part) if item.strip())


def bare(block: str) -> str:
    """A block as it reads: links are their text, code is gone."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", " ", block))


def figures(block: str) -> list[Figure]:
    """The numbers of a block."""
    text, found = bare(block), []
    for match in NUMBER.finditer(text):
        end = match.end()
        while not (unit := UNIT.match(text, end)) and (joint := JOINT.match(text, end)) and joint.end() > end:
            following = NUMBER.match(text, joint.end())
            if not following:
                break
            end = following.end()
        before = text[: match.start()].rstrip()
        if before.endswith("error"):
            name = "error"
        elif before.endswith("±") and found:
            name = found[-1].unit
        else:
            name = unit[1] if unit else "times" if match[0].startswith("1/") else ""
        same = found and not re.search(r"[.:|]\s", text[found[-1].start : match.start()])
        mean = found[-1].text if before.endswith("±") and found else ""
        found.append(Figure(match[0], match.start(), name, (found[-1].unit or found[-1].carried) if same else "", mean))
    return found


def records(block: str, page: Path, results: Path) -> list[Path]:
    """The records that a block links to."""
    found = []
    for target in re.findall(r"\]\(([^)#]+)\)", block):
        path = (page.parent / target).resolve()
        if not target.startswith("http") and path.is_relative_to(results.resolve()) and path.suffix != ".png":
            found.append(path)
    return found


class Spread(float):
    """A standard deviation, with the mean that it belongs to."""

    mean: float

    def __new__(cls, value: float, mean: float) -> "Spread":
        spread = super().__new__(cls, value)
        spread.mean = mean
        return spread


def values(path: Path) -> list[tuple[str, float]]:
    """Every number in a record, by its name; ratios of two of one kind are called 'times'."""
    found: list[tuple[str, float]] = []
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        return [*leaves(record), *ratios(record)]
    evidence: Evidence = read(path if path.is_dir() else path.parent)
    results: list[Result] = [*evidence.runs, *(result for one in evidence.comparisons for result in one.results)]
    for group in grouped(results):
        found += leaves(group.first.settings)
        summaries = [dict(leaves({**result.summary, "training_s": duration(result)})) for result in group.results]
        names = set.intersection(*(set(summary) for summary in summaries))
        for name in names:
            numbers = [summary[name] for summary in summaries]
            found.append((name, mean := statistics.mean(numbers)))
            if len(numbers) > 1:
                found += [(name, Spread(statistics.stdev(numbers), mean)), (".seeds", len(numbers))]
    for measurement in evidence.measurements:
        found += [*leaves(measurement.record), *ratios(measurement.record)]
    return found


def duration(result: Result) -> float:
    """Seconds that the training took."""
    return float(result.get("epochs") * result.summary.get("seconds_per_epoch", 0.0))


def leaves(record: object, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(record, dict):
        for key, value in record.items():
            yield from leaves(value, f"{name}.{key}")
    elif isinstance(record, list):
        for value in record:
            yield from leaves(value, name)
    elif isinstance(record, int | float) and not isinstance(record, bool) and "fastest" not in name:
        yield name, record


def ratios(record: object) -> Iterator[tuple[str, float]]:
    """Of two libraries under one rule, as a record of peers names them, and of rows that differ in their rule alone."""
    if isinstance(record, dict):
        for name, value in record.items():
            if isinstance(value, dict) and name.startswith("times_"):
                peers = {way: re.findall(r"\w+", way)[1:2] for way in value}
                yield from (("times", value[a] / value[b]) for a, b in permutations(value, 2) if peers[a] == peers[b] != [])
            yield from ratios(value)
        rows = [row for row in record.get("rows", []) if "rule" in row]
        for a, b in permutations(rows, 2):
            if all(a.get(key) == b.get(key) for key in ("time_steps", "batch_size", "width", "threads", "compiled")):
                names = [name for name in ("step_ms", "sequence_s", "training_mb") if a.get(name) and b.get(name)]
                yield from (("times", a[name] / b[name]) for name in names)
    elif isinstance(record, list):
        for value in record:
            yield from ratios(value)


def follows(figure: Figure, found: list[tuple[str, float]]) -> bool:
    """Whether one of the values rounds to the figure."""
    digits = figure.text.removeprefix("1/").replace(",", "")
    half = 0.5 * 10.0 ** -len(digits.partition(".")[2]) * (1 + 1e-9)  # a value just between two may be shown as either
    if figure.mean:
        mean = Figure(figure.mean, figure.start, figure.unit)
        found = [(name, raw) for name, raw in found if isinstance(raw, Spread) and follows(mean, [(name, raw.mean)])]
    if not figure.measured and any(value == int(digits) for _, value in found):
        return True
    units = {figure.unit} if figure.unit else {figure.carried, ""} if figure.measured else {figure.carried} - {""}
    return any(
        abs(value - float(digits)) <= half for unit in units for name, raw in found for value in in_unit(name, raw, unit)
    )


def in_unit(name: str, value: float, unit: str) -> Iterator[float]:
    """A value as numbers of a unit: none where it is of another kind."""
    if unit == "%":
        if PERCENT.search(name):
            yield value
        elif 0 <= value <= 1 and not NO_SHARES.search(name):
            yield 100 * value
    elif unit == "million":
        yield value if "millions" in name else value / 1e6
    elif re.search(KINDS[unit][0], name):
        yield value * KINDS[unit][1]


def untraced(text: str, page: Path, results: Path, allowed: list[str]) -> list[str]:
    """What is wrong with the figures of a page: one line each.

    ``allowed`` holds passages of the page whose numbers are no measurements.
    """
    wrong = []
    for block in blocks(text):
        reads, linked = bare(block), records(block, page, results)
        wrong += [f"{page.name} links to {path}, which is not there" for path in linked if not path.exists()]
        settings = [match.span() for match in SETTING.finditer(reads)]
        for passage in allowed:
            settings += [match.span() for match in re.finditer(re.escape(passage), reads)]
        found = [value for path in linked if path.exists() for value in values(path)]
        for figure in figures(block):
            if any(start <= figure.start < end for start, end in settings) or (not linked and not figure.measured):
                continue
            if not follows(figure, found):
                around = reads[max(0, figure.start - 30) : figure.start + 40].strip()
                of = ", ".join(path.relative_to(results).as_posix() for path in linked) or "any record: none is linked"
                wrong.append(f"{page.name}: {figure.text} {figure.unit} in '... {around} ...' does not follow from {of}")
    return wrong
