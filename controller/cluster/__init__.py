"""The cluster controller: makes the objects that follow from chains, and says in their status how they fare.

Open `plan` first: it decides everything, from the objects as they are. `loop` observes and applies.
"""
