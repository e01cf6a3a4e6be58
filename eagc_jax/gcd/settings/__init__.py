"""Settings: frozen dataclasses, the same for command line, Python call and file."""
