"""Backbones, recipes and files: how networks are built and stored."""
