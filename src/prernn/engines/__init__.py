"""A network's step in other hands: files for other runtimes, and engines that run it faster than eager torch."""
