"""Installs a wheel into a new environment without extras, and uses it there.

    python tests/check_wheel.py dist/*.whl [--constraints constraints.txt]

`import eagc_jax` must work with jax, numpy and optax alone and load none of the extras;
an aggregator must make an update; the command `eagc` must say what is missing. The same
versions as in the constraints are installed, unless another file is named ("" for none).
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import sys
import eagc_jax
assert "jax" not in sys.modules, "importing eagc_jax loads jax"
from importlib import metadata, resources
assert eagc_jax.__version__ == metadata.version("eagc_jax")
files = resources.files("eagc_jax")
assert files.joinpath("py.typed").is_file()
assert files.joinpath("gcd/report/explorer/static/page.html").is_file()
from eagc_jax import *
import jax.numpy as jnp
tx = aggregators.upgrad(2)
gradients = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
update, _ = tx.update(gradients, tx.init(jnp.zeros(2)))
assert jnp.allclose(update, jnp.array([0.25, 0.75]), atol=1e-6), update
extras = {
    requirement.split(">")[0].split("[")[0].strip().lower().replace("-", "_")
    for requirement in metadata.requires("eagc_jax") if "extra ==" in requirement
} - {"eagc_jax", "ml_dtypes", "scipy"}  # jax itself brings the last two
names = {"orbax_checkpoint": "orbax", "pillow": "PIL", "scikit_learn": "sklearn"}
found = {names.get(name, name) for name in extras} & set(sys.modules)
assert not found, f"extras are imported: {found}"
import importlib.util
assert importlib.util.find_spec("flax") is None, "this environment has extras"
print("eagc_jax", eagc_jax.__version__, "imports without extras")
"""


def run(*command, **options):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(list(map(str, command)), env=environment, **options)


def main(arguments=None):
    """Returns 0, or raises with what failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=pathlib.Path)
    parser.add_argument("--constraints", default=str(ROOT / "constraints.txt"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = pathlib.Path(folder) / "bin" / "python"
        limits = ["-c", options.constraints] if options.constraints else []
        pip = (python, "-m", "pip", "install", "--quiet")
        run(*pip, *limits, options.wheel.resolve(), check=True)
        run(python, "-W", "error", "-c", PROGRAM, cwd=folder, check=True)
        told = run(
            *(python.with_name("eagc"), "doctor"),
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        assert "without the extra gcd" in told.stdout, told.stdout
    return 0


if __name__ == "__main__":
    sys.exit(main())
