"""CNI calls: the call as a value, the server that receives it, the wiring that carries it out."""
