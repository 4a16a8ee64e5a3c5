"""Output for people to read: files, tables, progress bars, pages and plots."""
