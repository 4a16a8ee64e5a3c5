"""The graph of a CNN: tracing it, finding the surroundings of a layer, inserting recurrent layers."""
