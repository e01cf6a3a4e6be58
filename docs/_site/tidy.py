"""What is left out of the site: entries and texts that help nobody."""

import fnmatch


def skip_field(app, what, name, found, skipped, options):
    """`Alias for field number 0` is Python's: the class's text names the fields."""
    return True if type(found).__name__ == "_tuplegetter" else None


def skip_state(app, what, name, found, skipped, options):
    """On the page of `eagc_jax` itself: states are on the pages of their rooms."""
    twice = isinstance(found, type) and found.__name__.endswith("State")
    return True if twice and app.env.docname == "api/core" else None


def skip_unwritten(app, docname, source):
    """Lines `NAME*` of the index whose page is not written yet.

    So a page has its place in the navigation before it is there.
    """
    if docname == "index":
        lines = source[0].splitlines()
        source[0] = "\n".join(line for line in lines if _written(line, app.project))


def _written(line, project):
    return not line.endswith("*") or any(fnmatch.filter(project.docnames, line))


def setup(app):
    app.connect("autodoc-skip-member", skip_field)
    app.connect("autodoc-skip-member", skip_state)
    app.connect("source-read", skip_unwritten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
