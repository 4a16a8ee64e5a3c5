"""What benchmarks share: candidates, interleaved timing, goals and floors, tables and pictures."""
