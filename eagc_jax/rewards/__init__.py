"""Several rewards."""
