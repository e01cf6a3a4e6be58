"""Several runs beside each other: arms, a file of finished runs, intervals, tables."""
