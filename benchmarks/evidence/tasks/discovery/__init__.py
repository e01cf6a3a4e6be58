"""Category discovery: no task yet; ``benchmarks/discovery.py`` has its own program."""
