"""The decisions about an admission request: pure functions over values.

Open `mutate` (pods and workloads) or `validate` (chains) first. They read the object (`read`) into values (`model`),
decide over them (`position`: the stage that labels name; `replica`: a pod as it should be), and return edits (`write`).
"""
