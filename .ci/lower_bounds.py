"""Prints pyproject.toml's lower bounds as constraints: `name>=1.2` as `name==1.2`."""

import pathlib
import re
import tomllib

PROJECT = pathlib.Path(__file__).parents[1] / "pyproject.toml"


def lower_bounds(project):
    """One line for each requirement with a lower bound, of the core and of all extras."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in dict.fromkeys(line for group in groups for line in group):
        if bound := re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement):
            yield f"{bound[1]}=={bound[2]}"


if __name__ == "__main__":
    print(*lower_bounds(tomllib.loads(PROJECT.read_text())["project"]), sep="\n")
