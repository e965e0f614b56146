"""The language that webhook, cluster controller and node agent share. Standard library only.

Open `names` first, then `chain`; `validation` says what is wrong with a chain.
"""
