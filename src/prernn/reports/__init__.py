"""What is written for people: whole files, tables, progress bars, pages, plots."""
