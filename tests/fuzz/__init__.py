"""Fuzzing: random changes of inputs from outside, guided by the code that they reach (atheris, libFuzzer).

`make fuzz` runs it, with FUZZ=1000000 inputs. `targets` checks what must hold for any input, `mutation` makes one input
from another, `run` fuzzes one target, `forwarder` the CNI plugin, `__main__` all of them. Findings are in
findings/, and the unit tests try them.
"""
