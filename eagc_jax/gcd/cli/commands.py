"""The list of subcommands, and the parsing of what was typed."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Annotated, Any, Protocol, Union, get_args

import tyro

from eagc_jax.gcd.cli.cache import Cache
from eagc_jax.gcd.cli.compare import Compare
from eagc_jax.gcd.cli.discover import Discover
from eagc_jax.gcd.cli.doctor import Doctor
from eagc_jax.gcd.cli.embed import Embed
from eagc_jax.gcd.cli.estimate_classes import EstimateClasses
from eagc_jax.gcd.cli.export import Export
from eagc_jax.gcd.cli.label import Label
from eagc_jax.gcd.cli.page import Page
from eagc_jax.gcd.cli.predict import Predict
from eagc_jax.gcd.cli.pretrain import Pretrain
from eagc_jax.gcd.cli.probe import Probe
from eagc_jax.gcd.cli.rehearse import Rehearse
from eagc_jax.gcd.cli.train import Train
from eagc_jax.gcd.cli.weights import Weights

_MANNERS = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.CascadeSubcommandArgs,
)
_ABOUT = (
    "Finds the categories in photos, sentences or embeddings of which some are labeled."
)
_RULE = re.compile(r"^[─-]{5,}$", re.MULTILINE)
_INSIDE = re.compile(r"Error parsing __[\w.-]*: ")  # a name that nobody typed


class Command(Protocol):
    """A parsed command."""

    def run(self) -> int:
        """Does it; returns the exit code."""
        ...


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments are.

    Raises:
      SystemExit: help was asked for.
      ValueError, OSError: there is no such command or option, a value is wrong, or the
        file that `--settings` names can't be read.
    """
    given = _value_of("--settings", arguments)
    discover, train = Discover.with_settings(given), Train.with_settings(given)
    kinds: dict[str, object] = {
        "discover": Annotated[
            Discover, tyro.conf.subcommand("discover", default=discover)
        ],
        "rehearse": Annotated[Rehearse, tyro.conf.subcommand("rehearse")],
        "estimate-classes": Annotated[
            EstimateClasses, tyro.conf.subcommand("estimate-classes")
        ],
        "embed": Annotated[Embed, tyro.conf.subcommand("embed")],
        "cache": Annotated[Cache, tyro.conf.subcommand("cache")],
        "doctor": Annotated[Doctor, tyro.conf.subcommand("doctor")],
        "predict": Annotated[Predict, tyro.conf.subcommand("predict")],
        "page": Annotated[Page, tyro.conf.subcommand("page")],
        "label": Annotated[Label, tyro.conf.subcommand("label")],
        "pretrain": Annotated[Pretrain, tyro.conf.subcommand("pretrain")],
        "compare": Annotated[Compare, tyro.conf.subcommand("compare")],
        "train": Annotated[Train, tyro.conf.subcommand("train", default=train)],
        "export": Annotated[Export, tyro.conf.subcommand("export")],
        "probe": Annotated[Probe, tyro.conf.subcommand("probe")],
        "weights": Annotated[Weights, tyro.conf.subcommand("weights")],
    }
    # No type that can be written down: which commands there are is data here.
    every: Any = Union[tuple(kinds.values())]  # noqa: UP007  (made from a tuple)
    if list(arguments) in (["--help"], ["-h"]):
        print(_overview(kinds))
        raise SystemExit(0)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(
                every, prog="eagc", description=_ABOUT, args=arguments, config=_MANNERS
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(_one_line(told.getvalue())) from end


def _overview(kinds: dict[str, object]) -> str:
    """Each command with one line of what it does."""
    width = max(map(len, kinds))
    lines = [
        f"  {name:{width}}  {_first_sentence(get_args(kind)[0])}"
        for name, kind in kinds.items()
    ]
    return "\n".join(
        [
            "usage: eagc COMMAND ...",
            "",
            _ABOUT,
            "",
            *lines,
            "",
            "For example: eagc discover banking77-sample --budget 3m",
            "eagc COMMAND --help says what it takes, with examples.",
        ]
    )


def _first_sentence(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _one_line(box: str) -> str:
    """What a box of text with a heading and rules says, as a line."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    has_frame = any(line.startswith("╭") for line in lines)
    text = "\n".join(line for line in lines if line[:1] not in ("╭", "╰"))
    blocks = [" ".join(block.split()) for block in _RULE.split(text)]
    told = blocks if has_frame else blocks[1:]  # without the heading
    told = [one for one in told if one and not one.startswith("Argument helptext")]
    return _INSIDE.sub("", ". ".join(one.removesuffix(".") for one in told))


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What an option is given, before all are parsed: its file holds their defaults."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else next(iter(arguments[index + 1 :]), None)
    return None
