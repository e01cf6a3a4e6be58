"""Several rewards of one policy: no task yet. A file here registers with ``task``."""
