"""`python -m evaluation`: every experiment that has no result yet, then docs/evaluation.md with its plots.

An experiment is a benchmark in a process of its own. Its result is kept in build/evaluation/ (build/evaluation/quick/
for QUICK=1), so that a run that was interrupted goes on where it was; ANEW="NAME …" or ANEW=all forgets results first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import BUILD, QUICK
from evaluation import page
from evaluation.sections import SECTIONS

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / "build" / "evaluation" / ("quick" if QUICK else "")
ANEW = os.environ.get("ANEW", "").split()
TENTH = {"events"}
"""Taken as a look in every run: in full it alone would take longer than all may. A look leaves it out."""
ON_CLUSTER = ("efficiency", "pods", "reaction", "events")
"""Come last, one after the other on the same cluster where that has the nodes they want."""
MOST_SECONDS = 240 if QUICK else 600
"""Of one experiment."""


def main() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for section in SECTIONS for name in section.experiments))
    names = [name for name in names if name not in ON_CLUSTER] + list(ON_CLUSTER)
    names = [name for name in names if not (QUICK and name in TENTH)]
    os.environ.setdefault("SFC_TESTBED", "sfc-evaluation")
    os.environ["KEEP_CLUSTER"] = "1"
    try:
        failed = list(_run_all(names))
    finally:
        subprocess.run([sys.executable, "-m", "testbed", "down"], cwd=CHECKOUT, check=False)
    page.write(RESULTS, CHECKOUT / "docs")
    print("docs/evaluation.md; its plots in docs/evaluation/")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; what they said: {RESULTS.relative_to(CHECKOUT)}/NAME.log")


def _run_all(names: list[str]) -> Iterator[str]:
    """Runs what has no result; the names of those that failed."""
    began = time.monotonic()
    for number, name in enumerate(names, start=1):
        at = f"[{number}/{len(names)}, {time.monotonic() - began:4.0f} s] {name}"
        result = RESULTS / f"{name}.json"
        if ANEW == ["all"] or name in ANEW:
            result.unlink(missing_ok=True)
        if result.exists():
            print(f"{at}: done before", flush=True)
        else:
            print(f"{at} …", flush=True)
            if not _run(name, result):
                yield name


def _run(name: str, result: Path) -> bool:
    with result.with_suffix(".log").open("w") as log:
        try:
            command = [sys.executable, "-m", "benchmarks", name]
            environment = {**os.environ, **({"QUICK": "1"} if name in TENTH else {})}
            with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log) as process:
                try:
                    status = process.wait(MOST_SECONDS)
                except BaseException:
                    process.terminate()  # it removes what it made
                    raise
        except subprocess.TimeoutExpired:
            print(f"  {name} was ended after {MOST_SECONDS} s", flush=True)
            return False
    if status == 0:
        shutil.copyfile(BUILD / result.name, result)
    return status == 0


main()
