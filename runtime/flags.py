# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""How the scripts describe and parse their flags: argparse with the facts about each flag in one place."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from runtime.errors import InputError


class Flags(argparse.Namespace):
    """The values of all flags. `given` names those on the command line; it is a slot, so that vars() lacks it."""

    __slots__ = ("given",)


@dataclass(frozen=True)
class Flag:
    """What is known of a flag."""

    default: object
    type: Callable[[str], object] | None  # parses the text; None: a switch, or one of `choices`
    help: str
    choices: tuple = ()
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    # the defaults of `--recipe fast` and `--recipe nuclei`, if they are others
    fast: object = None
    nuclei: object = None
    # another value makes another run, which `--resume` refuses; (flag, values): only if that flag has one of the values
    same_run: bool | tuple[str, tuple[str, ...]] = False
    input: bool = False  # a net expects images that are prepared with the value that it was trained with
    evaluation: bool = False  # scores can be compared only if they were made with this value
    local: bool = False  # may have another value in each process of a run
    image_order: bool = False  # changes the order of the images within an epoch

    def accepts(self, value: object) -> bool:
        """Could the command line give this value?"""
        if type(value) is not type(self.default) or (self.choices and value not in self.choices):
            return False
        try:
            return self.type is None or self.type(str(value)) == value
        except (ValueError, argparse.ArgumentTypeError):  # ValueError: a number of thousands of digits has no text
            return False

    def add_to(self, parser, name: str, *changes, type: Callable | None = None) -> None:
        """Add the flag to a parser or group; changes: another default and another help, if the script has its own."""
        default, help = (*changes, *(self.default, self.help)[len(changes) :])
        spellings = sorted([*self.aliases, f"--{name}"], key=lambda text: (text.startswith("--"), text != f"--{name}"))
        if not (self.type or self.choices):
            parser.add_argument(*spellings, action="store_true", default=default, help=help, dest=name)
            return
        settings = {"type": type or self.type or str, "choices": self.choices or None, "metavar": self.metavar}
        parser.add_argument(*spellings, default=default, help=help, dest=name, **settings)


class FlagParser(argparse.ArgumentParser):
    """A parser that shows defaults in its help and accepts every flag with hyphens as well as with underscores."""

    def __init__(self, description: str, allow_abbrev: bool = True):
        super().__init__(
            description=description,
            formatter_class=_HelpFormatter,
            epilog="Every flag may be written with hyphens or with underscores.",
            allow_abbrev=allow_abbrev,
        )

    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        return super().parse_known_args([*map(_with_underscores, args[:end]), *args[end:]], namespace)

    def parse(self, argv: list[str] | None) -> Flags:
        """Parse a command line, sys.argv's if None, and find out which flags it gives; call it once per parser."""
        args = self.parse_args(argv, Flags())
        not_given = object()
        self.set_defaults(**dict.fromkeys(vars(args), not_given))
        again = self.parse_args(argv)
        args.given = frozenset(name for name, value in vars(again).items() if value is not not_given)
        return args


def given_device_id(device_id: int | None) -> int | None:
    """Return the number in ASCEND_DEVICE_ID, which schedulers set and which has priority, else `--device_id`."""
    given = os.environ.get("ASCEND_DEVICE_ID")
    try:
        return int(given) if given else device_id
    except ValueError:
        raise InputError(f"ASCEND_DEVICE_ID={given}: not a device's number; unset it") from None


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to the help of each flag that does not state it itself."""

    def _get_help_string(self, action):
        return action.help if "(default: " in action.help else super()._get_help_string(action)


def _with_underscores(token: str) -> str:
    if not token.startswith("--"):
        return token
    flag, equals, value = token[2:].partition("=")
    return f"--{flag.replace('-', '_')}{equals}{value}"
