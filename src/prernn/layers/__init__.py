"""Recurrent layers: cells, structures of W_hh, input-to-hidden forms."""
