"""The node agent: links, filters and maps of one node, kept equal to what the cluster asks for. Open `agent` first."""
