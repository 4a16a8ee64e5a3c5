"""Robust sources: read in their own threads, with a bounded queue, a time limit and reconnection."""
