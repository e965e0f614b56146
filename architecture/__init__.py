"""The rooms of the code: their import contracts, and the picture in docs/architecture.md."""
