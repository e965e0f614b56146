"""The data plane as values, and every decision about it. Standard library only, no input or output, no clock."""
