"""Faces in streams: what trembles, what lags."""
