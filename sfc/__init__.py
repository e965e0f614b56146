"""The language shared by webhook and controller: names, the chain model, the Multus annotation. Standard library only."""
