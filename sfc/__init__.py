"""The language shared by webhook and controller: names, the chain, the Multus annotation. Standard library only."""
