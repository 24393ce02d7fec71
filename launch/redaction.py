"""Takes out of what a run writes down about itself what is nobody else's business."""

import re
import shlex
from collections.abc import Sequence

# A name that ends so, or has a password in it, has a secret for a value, if that is no number.
_NAME = r"[\w.\-/@]*(?:(?:^|(?<=[-._]))(?:key|token|secret|credentials?)|passw(?:or)?d[\w.\-]*)"
_FLAG = re.compile(
    rf"(?P<name>(?:--gin_param=)?{_NAME})(?:=(?P<value>.*))?", re.DOTALL | re.IGNORECASE
)
_BINDING = re.compile(
    rf"^(?P<name>\s*{_NAME}\s*=\s*)(?P<value>\S.*)$", re.MULTILINE | re.IGNORECASE
)
_NUMBER = re.compile(r"[-+\d.eE_]+|True|False|None")
REMOVED = "(removed)"


def command_line(arguments: Sequence[str]) -> str:
    """A command line as a shell reads it, without secrets.

    >>> command_line(["train", "--steps=3", "--hub_token=abc", "--password", "x y", "--d_key=64"])
    "train --steps=3 '--hub_token=(removed)' --password '(removed)' --d_key=64"
    """
    shown: list[str] = []
    value_follows = False
    for argument in arguments:
        found = _FLAG.fullmatch(argument) if argument.startswith("-") else None
        if value_follows and not argument.startswith("-"):
            shown.append(REMOVED)
        elif found and found["value"] and not _NUMBER.fullmatch(found["value"]):
            shown.append(f"{found['name']}={REMOVED}")
        else:
            shown.append(argument)
        value_follows = bool(found) and found["value"] is None
    return shlex.join(shown)


def configuration(text: str) -> str:
    r"""The text of a gin configuration, without secrets.

    >>> print(configuration("Hub.api_key = 'abc'\nAttention.d_key = 64\nRun.tokens = 'a'"))
    Hub.api_key = '(removed)'
    Attention.d_key = 64
    Run.tokens = 'a'
    """

    def hidden(found: re.Match[str]) -> str:
        if _NUMBER.fullmatch(found["value"].strip()):
            return found[0]
        return f"{found['name']}{REMOVED!r}"

    return _BINDING.sub(hidden, text)
