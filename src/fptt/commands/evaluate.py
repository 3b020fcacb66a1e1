"""fptt evaluate RUN [options]"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from fptt.commands.common import add_common, add_split, chosen_set, show, trained
from fptt.cost import measure
from fptt.errors import InputError
from fptt.training.loop import Trainer

ROWS = 10  # of the scores after each step that are printed; JSON has all


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fptt evaluate", description="Test the last checkpoint of a run.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--steps", action="store_true", help="and what the score would be after each time step")
    parser.add_argument("--cost", action="store_true", help="and what it costs: operations, sparsity, an estimate of energy")
    parser.add_argument(
        "--calibrate", type=int, metavar="N", help="take the statistics of batch norms anew from N training batches; not saved"
    )
    add_split(parser)
    add_common(parser)
    options = parser.parse_args(arguments)
    trainer = trained(options)
    samples = chosen_set(trainer, options.split)
    if options.calibrate is not None:
        calibrate(trainer, options.calibrate)
    result = {"run": str(options.run), **trainer.task.notes(), "split": options.split, "samples": len(samples)}
    result |= trainer.evaluate(samples, every_step=options.steps)
    if options.cost:
        result["cost"] = measure(trainer.stepped, (sequence for sequence, _ in trainer.sequences(samples)))
    if options.json:
        show(result, as_json=True)
        return 0
    steps, cost = result.pop("steps", None), result.pop("cost", None)
    show(result | (costs(cost) if cost else {}), as_json=False)
    if steps:
        Console().print(scores(steps))
    if cost:
        Console().print(operations(cost))
        if cost["firing_rates"]:
            Console().print(firing_rates(cost))
    return 0


def calibrate(trainer: Trainer, batches: int) -> None:
    """Take its batch norms' statistics anew. Raises InputError where it has none, or for no batches."""
    if batches < 1:
        raise InputError(f"--calibrate must be at least 1 batch, got {batches}")
    train = trainer.task.training_set(trainer.task.sets()[0], 0)
    if not trainer.calibrate(train, batches):
        raise InputError(f"{trainer.run.folder} has no batch norms whose statistics could be taken anew: leave --calibrate out")


def scores(steps: dict[str, list[float]]) -> Table:
    """The scores after some of the steps, evenly spread, and after the last."""
    last = len(steps["loss"])
    table = Table("after step", *(key.replace("_", " ") for key in steps))
    for step in sorted({-(-last * row // ROWS) for row in range(1, ROWS + 1)}):
        values = {key: values[step - 1] for key, values in steps.items()}
        table.add_row(str(step), *(f"{100 * v:.2f} %" if key == "accuracy" else f"{v:.5g}" for key, v in values.items()))
    return table


def costs(cost: dict[str, Any]) -> dict[str, str]:
    """The figures of ``fptt.cost.measure`` with their units."""
    time_steps = len(cost["steps"]["dense_operations"])
    per_sample = ("dense_operations", "effective_macs", "effective_acs", "membrane_updates")
    sparsity, unknown = cost["activation_sparsity"], "not known: no neurons of fptt"
    return {
        "footprint": f"{cost['footprint_bytes']:,} bytes",
        "connection_sparsity": f"{100 * cost['connection_sparsity']:.2f} %",
        "activation_sparsity": unknown if sparsity is None else f"{100 * sparsity:.2f} %",
        **{
            key: unknown if cost[key] is None else f"{cost[key]:,.0f} a sample, {cost[key] / time_steps:,.0f} a step"
            for key in per_sample
        },
        "energy_estimate": f"{cost['energy_estimate_nj'] / 1000:.4g} µJ a sample, of arithmetic alone",
    }


def operations(cost: dict[str, Any]) -> Table:
    """The products with each weight matrix or kernel."""
    table = Table(Column("product with", no_wrap=True), "", "dense", "effective", title="Operations a sample")
    for row in cost["products"]:
        table.add_row(row["name"], row["operation"], f"{row['dense']:,.0f}", f"{row['effective']:,.0f}")
    return table


def firing_rates(cost: dict[str, Any]) -> Table:
    """The layers' spikes per neuron and step."""
    table = Table("neurons", "firing rate")
    for name, rate in cost["firing_rates"].items():
        table.add_row(name, f"{rate:.4f}")
    return table
