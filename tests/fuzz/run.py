"""`python -m tests.fuzz.run TARGET DIRECTORY LIBFUZZER-OPTION...`: one target, in a process of its own."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sfc", "webhook", "controller"]):
    from tests.fuzz.targets import TARGETS
from tests.fuzz.mutation import Trees


def main() -> None:
    name, directory, *options = sys.argv[1:]
    target = TARGETS[name]
    logging.disable()
    corpus = Path(directory) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(target.seeds):
        (corpus / f"seed-{i}").write_bytes(seed)
    arguments = [sys.argv[0], f"-artifact_prefix={directory}/", *options, str(corpus)]
    if target.trees:
        # Setup() replaces Mutate, so it must be looked up at each call.
        trees = Trees(target.seeds, lambda data, most: atheris.Mutate(data, most))  # noqa: PLW0108
        atheris.Setup(arguments, target.check, custom_mutator=trees)
    else:
        atheris.Setup(arguments, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
