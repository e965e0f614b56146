"""Fuzzing: what comes from outside, changed at random, guided by the code that it reaches (atheris, libFuzzer).

`make fuzz` runs it, with FUZZ=1000000 inputs. `targets` says what must hold for any input, `mutation` how one input
becomes another, `run` fuzzes one target, `forwarder` the CNI plugin, `__main__` all of them. What was found is in
findings/ and is tried by the unit tests.
"""
