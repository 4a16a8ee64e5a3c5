"""The published tables of the papers, cell by cell: what was trained, on what data, how, and with what result."""
