"""All subcommands, and which one is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, Union

import tyro

from eagc_jax.gcd.cli.cache import Cache
from eagc_jax.gcd.cli.discover import Discover
from eagc_jax.gcd.cli.doctor import Doctor
from eagc_jax.gcd.cli.embed import Embed
from eagc_jax.gcd.cli.pretrain import Pretrain

_MANNERS = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.FlagCreatePairsOff,
)
_ABOUT = (
    "Finds the categories in photos, sentences or embeddings of which some are labeled."
)


class Command(Protocol):
    """A parsed command."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        ...


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments are.

    Raises:
      SystemExit: help was asked for (0), or there is no such command or option (2).
      ValueError, OSError: the file that `--settings` names can't be read.
    """
    discover = Discover.with_settings(_value_of("--settings", arguments))
    kinds: dict[str, Any] = {
        "discover": Annotated[
            Discover, tyro.conf.subcommand("discover", default=discover)
        ],
        "embed": Annotated[Embed, tyro.conf.subcommand("embed")],
        "cache": Annotated[Cache, tyro.conf.subcommand("cache")],
        "doctor": Annotated[Doctor, tyro.conf.subcommand("doctor")],
        "pretrain": Annotated[Pretrain, tyro.conf.subcommand("pretrain")],
    }
    every: Any = Union[tuple(kinds.values())]  # noqa: UP007  (made from a tuple)
    return tyro.cli(
        every, prog="eagc", description=_ABOUT, args=arguments, config=_MANNERS
    )


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What an option is given, before all are parsed: its file holds their defaults."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else next(iter(arguments[index + 1 :]), None)
    return None
