"""Settings every test shares: eight simulated devices, fixed hypothesis examples."""

import gc
import os

import hypothesis
import jax

# Most of a test's time is XLA compiling small programs, most of that LLVM polishing
# them: the older emitters without optimization compile five times faster, the operations
# are the same. XLA_FLAGS= (empty, as `make slow` sets it) keeps the compiler that users
# have; tests marked `rounding` see it in any case: test_default_compiler.py.
QUICK = [
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__[:2] == (0, 10):  # the flags come and go with versions
    os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))

# Before the first array: later changes would be refused.
jax.config.update("jax_num_cpu_devices", 8)

hypothesis.settings.register_profile(
    "deterministic",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=30,
    print_blob=True,
)
hypothesis.settings.load_profile("deterministic")


def pytest_collection_finish(session):
    """Garbage is looked for less often, and not among what was imported.

    Tracing makes many objects, and what is compiled stays: the collector went through
    all of it again and again.
    """
    del session
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)


def pytest_terminal_summary(terminalreporter, config):
    """What needs a browser is left out by name, not silently."""
    if "not browser" in (config.option.markexpr or ""):
        terminalreporter.write_line(
            "left out: the tests in a browser (marked browser); make browser runs them"
        )
