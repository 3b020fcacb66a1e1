"""fptt report [RESULTS] [options]"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from fptt.commands.common import show
from fptt.errors import InputError
from fptt.files import replacing
from fptt.report.claims import claims
from fptt.report.page import page
from fptt.report.reading import read


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fptt report", description="Write a page on all runs and measurements in a folder, beside the published figures."
    )
    add = parser.add_argument
    add("results", type=Path, nargs="?", default=Path("results"), help="folder of the evidence (results)")
    add("--out", type=Path, default=Path("docs/reproduction.md"), help="page to write (docs/reproduction.md)")
    add("--check", action="store_true", help="write nothing; status 1 if the page is not what the evidence says")
    add("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    out = options.out
    evidence = read(options.results)
    found = claims(evidence)
    text = page(evidence, found, options.results, out)
    result = {
        "page": str(out),
        "claims": len(found),
        "measured": sum(bool(claim.measured) for claim in found),
        "runs": len(evidence.runs),
        "comparisons": len(evidence.comparisons),
        "measurements": len(evidence.measurements),
    }
    if options.check:
        current = out.is_file() and out.read_bytes() == text.encode()
        if not current:
            print(f"fptt: {out} is not what {options.results} says: write it anew with fptt report", file=sys.stderr)
        if options.json:
            print(json.dumps({**result, "current": current}))
        return 0 if current else 1
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent}: choose another --out")
    with replacing(out) as temporary:
        temporary.write_bytes(text.encode())
    if options.json:
        print(json.dumps({**result, "claims": [dataclasses.asdict(claim) for claim in found]}))
    else:
        show(result, as_json=False)
    return 0
