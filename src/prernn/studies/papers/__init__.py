"""The published tables of the papers, cell by cell: what was trained, on what, how, and what it reached."""
