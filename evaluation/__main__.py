"""`python -m evaluation` runs every experiment that has no result yet, then writes docs/evaluation.md and its plots.

An experiment is a benchmark in a process of its own. Results are kept in build/evaluation/ (build/evaluation/quick/ for
QUICK=1), so that an interrupted run continues where it stopped. ANEW="NAME …" or ANEW=all deletes results first.
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
"""Always run with QUICK=1, because in full they take longer than the whole evaluation may. A quick look omits them."""
ON_CLUSTER = ("efficiency", "pods", "reaction", "events")
"""Run last, one after the other. The cluster stays from one to the next if it has the right number of nodes."""
MOST_SECONDS = 240 if QUICK else 600
"""After so many seconds an experiment is ended, and counts as failed."""


def main() -> None:
    """Runs what has no result, ends the cluster and writes the page; fails when an experiment failed."""
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
        sys.exit(f"failed: {', '.join(failed)}; see {RESULTS.relative_to(CHECKOUT)}/NAME.log")


def _run_all(names: list[str]) -> Iterator[str]:
    """Runs the experiments that have no result; yields the names of those that failed."""
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
