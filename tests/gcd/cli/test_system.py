"""What `eagc doctor` says of a machine, with the extras and without."""

import importlib.metadata
import importlib.util
import re

import jax
import pytest

import eagc_jax
from eagc_jax.gcd import cli
from eagc_jax.gcd.cli import system


def test_versions_and_devices():
    told = list(system.report())
    assert told[0].startswith(f"eagc_jax {eagc_jax.__version__}, Python 3.")
    for name in system.CORE:
        assert f"{name} {importlib.metadata.version(name)}" in told[1]
    (devices,) = (line for line in told if line.startswith("devices: "))
    assert f"{len(jax.devices())} x cpu: cpu" in devices  # tests simulate eight


def test_an_extra_is_complete_or_says_what_it_lacks(monkeypatch):
    extras = [line for line in system.report() if line.startswith("extra ")]
    assert [line.split()[1] for line in extras] == [f"{n}:" for n in system.EXTRAS]
    assert all(": complete (" in line for line in extras)  # as tests are installed

    def installed(name, real=importlib.metadata.version):
        if name == "tokenizers":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    (text,) = (line for line in system.report() if line.startswith("extra text: "))
    assert text == "extra text: not complete, tokenizers not installed"


def test_variables_are_said_and_nothing_of_a_person(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    monkeypatch.setenv("HOME", "/home/somebody")
    told = "\n".join(system.report())
    assert "JAX_ENABLE_X64=0" in told
    assert "somebody" not in told


def test_devices_that_fail_are_a_line(monkeypatch):
    def failing():
        raise RuntimeError("no driver\n  found")

    monkeypatch.setattr(jax, "devices", failing)
    assert "devices: none, no driver found" in list(system.report())


@pytest.mark.parametrize("arguments", [["doctor"], ["discover", "photos"]])
def test_without_the_extras(arguments, capsys, monkeypatch):
    def found(name, real=importlib.util.find_spec):
        return None if name == "tyro" else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    code = cli.main(arguments)
    told = capsys.readouterr()
    if arguments == ["doctor"]:
        assert code == 0
        assert re.search(r"^core: jax ", told.out, re.MULTILINE)
        assert "without the extra gcd" in told.out
    else:
        assert code == 2
        assert "pip install 'eagc_jax[gcd]'" in told.err
