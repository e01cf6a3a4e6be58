"""Whether a type checker knows every public name; run by ``make types``.

    python tests/check_types.py

``pyright --verifytypes`` looks at the package as an installed one. Names that it can't
know, because a dependency has no types, are listed below with the reason.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

UNKNOWN = {
    # scikit-learn has no types, so its base classes are unknown.
    "eagc_jax.gcd.CategoryDiscovery",
    "eagc_jax.gcd.estimator.CategoryDiscovery",
    # jax.ShapeDtypeStruct is of no stated type to pyright.
    "eagc_jax.gcd.training.checkpoints.trees.Leaf",
    "eagc_jax.gcd.training.checkpoints.trees.is_key",
}


def main() -> int:
    """Prints what is unknown, and returns 1 if it is more, or less, than is listed."""
    environment = pathlib.Path(sys.prefix)
    pyright = environment / "bin" / "pyright"
    # Elsewhere than in the sources, and as in an activated environment: it is how
    # pyright finds what is installed.
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    own = {**os.environ, "VIRTUAL_ENV": str(environment), "PATH": path}
    command = [pyright, "--verifytypes", "eagc_jax", "--ignoreexternal", "--outputjson"]
    with tempfile.TemporaryDirectory() as nowhere:
        ran = subprocess.run(
            command, cwd=nowhere, env=own, capture_output=True, text=True, check=False
        )
    found = json.loads(ran.stdout)["typeCompleteness"]
    public = [one for one in found["symbols"] if one["isExported"]]
    unknown = {one["name"] for one in public if not one["isTypeKnown"]}
    for name in sorted(unknown ^ UNKNOWN):
        what = "is of unknown type" if name in unknown else "is known; take it off"
        print(f"{name} {what}")
    print(f"{len(public)} public names, {len(unknown)} of unknown type")
    return int(unknown != UNKNOWN or not public)


if __name__ == "__main__":
    sys.exit(main())
