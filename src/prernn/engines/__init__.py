"""A network's step computed elsewhere: files for other runtimes, and engines that are faster than eager torch."""
