"""Durations as people type them."""

import pytest

from eagc_jax.gcd.cli.durations import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (" 2M ", 120),
        ("7", 7),
    ],
)
def test_durations_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "-5m", "0s", "1h-3m", "nan"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="a time should be"):
        seconds_of(text)
