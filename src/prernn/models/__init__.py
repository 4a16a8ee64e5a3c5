"""Backbones, recipes and files: what a network is made of and how it is kept."""
