"""fptt data [options]"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fptt.data import catalogue


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fptt data", description="List the data sets, where they are and how to get them.")
    parser.add_argument("--data", type=Path, help="folder of the data sets; default $FPTT_DATA, else ~/.cache/fptt")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    rows = catalogue.status(catalogue.folder(options.data))
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = Table("data set", "tasks", "contents", "licence", "found", "how to get it")
    for row in rows:
        found = f"{row['megabytes']} MB in {row['path']}" if row["megabytes"] else "yes" if row["found"] else "no"
        table.add_row(row["name"], ", ".join(row["tasks"]), row["contents"], row["licence"], found, row["get"])
    Console().print(table)
    return 0
