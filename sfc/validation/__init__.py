"""What is wrong with a chain, what is probably a mistake, and what a change means for the replicas that run.

Reading order:
1. `checks` reads the whole object, top down, and reports every problem.
2. `fault` judges a single value; every limit is there.
3. `bounds` counts over the whole chain, for admission alone.
4. `segment` judges the interfaces of one layer-2 domain together.
5. `update` judges a change or a deletion; `warnings` finds what is legal but probably a mistake.
6. `problem` is the tool that all of them use: it reads JSON of any shape and reports with the path.
"""
