"""The graph of a CNN: tracing it, finding what lies around a layer, putting recurrent layers in."""
