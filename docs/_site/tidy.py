"""Leaves out what Python itself says of a named tuple's fields."""


def skip(app, what, name, found, skipped, options):
    """`Alias for field number 0` helps nobody: the class's text names the fields."""
    return True if type(found).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
