"""What gin files and command lines say, read and not yet done.

gin is code: an import runs a module, and reading with gin-config runs as it goes. Here gin-config's
parser only reads; a file is resolved along `search_path`, includes are followed, imports refused.
What comes out are plain `Statement`s, which launch.gin_checks judges before anything is bound.

Bare words. On the command line, and nowhere else, the VALUE of ``NAME=VALUE`` may lack its quotes.
If VALUE as a whole is a gin value (a Python literal, a container, ``@reference``, ``%MACRO``), it
is that. Otherwise it is a string if it begins with a letter, ``_``, ``/``, ``~``, ``./`` or
``../``, and holds only letters, digits, spaces and ``_ - + . : ; , / ? ~``; but true, false and
none are refused in every other spelling than Python's. Anything else is an error.
"""

import difflib
import importlib
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from launch.errors import ConfigError
from meshlang.errors import message

COMMAND_LINE = "command line"

_NAME = re.compile(r"([A-Za-z_]\w*/)*[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
_BARE_WORD = re.compile(r"([A-Za-z_/~]|\.\.?/)[\w+.:;,/?~ -]*\Z", re.ASCII)
_PYTHON_WORDS = {"true": "True", "false": "False", "none": "None"}
_VALUES_FIX = "strings have quotes, references begin with '@', macros with '%'"


@dataclass(frozen=True)
class Reference:
    """``@scope/Name``, or ``@scope/Name()`` if `called`."""

    name: str
    called: bool

    def __repr__(self) -> str:
        return f"@{self.name}{'()' if self.called else ''}"


@dataclass(frozen=True)
class Macro:
    """``%NAME``: a macro, or a constant that Python code gave to gin."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Statement:
    """One binding, ``scope/selector.argument = value``; a macro's `argument` is empty.

    `value` is made of Python literals, `Reference`s and `Macro`s. `place` is ``FILE:LINE`` or
    `COMMAND_LINE`.
    """

    scope: str
    selector: str
    argument: str
    value: Any
    place: str

    @property
    def name(self) -> str:
        """What stands before the equals sign."""
        scoped = f"{self.scope}/{self.selector}" if self.scope else self.selector
        return f"{scoped}.{self.argument}" if self.argument else scoped

    def __str__(self) -> str:
        return f"{self.place}: {self.name} = {self.value!r}"


@dataclass(frozen=True)
class Source:
    """All statements in the order in which they apply, and what could not be read."""

    statements: tuple[Statement, ...]
    problems: tuple[str, ...]


def load_gin() -> ModuleType:
    """The gin-config package.

    Without it ``import gin`` may still succeed, with the folder ``gin/`` of a checkout as an empty
    namespace.

    Raises:
        ConfigError: gin-config is not installed.
    """
    fix = "pip install gin-config"
    try:
        gin = importlib.import_module("gin")
    except ModuleNotFoundError as error:
        raise ConfigError(message("gin-config is not installed.", fix=fix)) from error
    if not hasattr(gin, "parse_config"):
        found = [("found as 'gin'", folder) for folder in getattr(gin, "__path__", [])]
        raise ConfigError(message("gin-config is not installed.", found, fix))
    return gin


def search_path() -> tuple[Path, ...]:
    """Where gin files are looked for: here, in the installed package, in the checkout."""
    package = Path(__file__).resolve().parent
    shipped = [package / "configs", package.parent / "gin"]
    return (Path.cwd(), *(folder for folder in shipped if folder.is_dir()))


def read(files: Sequence[str], bindings: Sequence[str], folders: Sequence[Path]) -> Source:
    """Read gin files, what they include, then the bindings of a command line.

    Args:
        files: Names of gin files; later ones win.
        bindings: ``"NAME=VALUE"``, with bare words.
        folders: Where files with relative names are looked for, in order.

    Raises:
        ConfigError: gin-config is not installed. Other problems are in the result.
    """
    reader = _Reader(folders)
    for name in files:
        reader.read_file(name, "--gin_file", ())
    for binding in bindings:
        reader.read_binding(binding)
    return Source(tuple(reader.statements), tuple(reader.problems))


class _Placeholders:
    """Makes the parser build plain values: gin-config's own references look up what they name."""

    def configurable_reference(self, name: str, called: bool) -> Reference:
        return Reference(name, called)

    def macro(self, name: str) -> Macro:
        return Macro(name)


class _UnreadableError(Exception):
    """A text stops being gin."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line
        self.why = why


class _Reader:
    """Collects statements and problems over files that include each other."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.statements: list[Statement] = []
        self.problems: list[str] = []
        self._folders = folders
        load_gin()
        self._parser = importlib.import_module("gin.config_parser")

    def read_file(self, name: str, asked_by: str, including: tuple[Path, ...]) -> None:
        """Read one file; `including` are the files on whose behalf, from the outermost on."""
        path = _find(name, self._folders)
        if path is None:
            self.problems.append(_not_found(name, asked_by, self._folders))
        elif path in including:
            self.problems.append(_cycle((*including[including.index(path) :], path)))
        elif _lies_in_checkpoint(path):
            rows = [("file", path), ("asked for by", asked_by)]
            fix = "if you trust this file, copy it elsewhere"
            self.problems.append(message("no gin is read from a checkpoint.", rows, fix))
        else:
            self._read_text(path, (*including, path))

    def _read_text(self, path: Path, including: tuple[Path, ...]) -> None:
        shown = _shown(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(message(f"cannot read {shown}.", [("error", error)]))
            return
        try:
            for parsed in self._parse(text):
                self._take(parsed, f"{shown}:{parsed.location.line_num}", including)
        except _UnreadableError as error:
            lines = text.splitlines()
            line = lines[error.line - 1].strip() if error.line <= len(lines) else ""
            rows = [("at", f"{shown}:{error.line}"), ("line", line), ("why", error.why)]
            self.problems.append(message("this is not gin.", rows, _VALUES_FIX))

    def _take(self, parsed: Any, place: str, including: tuple[Path, ...]) -> None:
        """Keep a binding, follow an include, refuse an import; a block's head says nothing."""
        if isinstance(parsed, self._parser.BindingStatement):
            statement = Statement(
                parsed.scope, parsed.selector, parsed.arg_name, parsed.value, place
            )
            self.statements.append(statement)
        elif isinstance(parsed, self._parser.IncludeStatement):
            self.read_file(parsed.filename, place, including)
        elif isinstance(parsed, self._parser.ImportStatement):
            rows = [("at", place), ("line", parsed.format())]
            fix = "import your module by a flag: --module=my_package.my_model"
            self.problems.append(message("gin files may not import.", rows, fix))

    def read_binding(self, text: str) -> None:
        """Read one ``NAME=VALUE`` of the command line."""
        name, _, value = (part.strip() for part in text.partition("="))
        if not value or not _NAME.match(name) or "\n" in text:
            rows = [("given", repr(text))]
            fix = "--gin.NAME=VALUE, where NAME is MACRO or Configurable.parameter"
            self.problems.append(message("a gin binding reads NAME=VALUE.", rows, fix))
            return
        try:
            parsed = list(self._parse(f"{name} = {value}"))
        except _UnreadableError as error:
            python = _PYTHON_WORDS.get(value.lower())
            if python or not _BARE_WORD.match(value):
                rows = [("given", repr(text)), ("why", error.why)]
                fix = f"write {python}" if python else _VALUES_FIX
                self.problems.append(message("this is not a gin value.", rows, fix))
                return
            parsed = self._parse(f"{name} = {value!r}")
        for statement in parsed:
            self._take(statement, COMMAND_LINE, ())

    def _parse(self, text: str) -> Iterator[Any]:
        """gin-config's statements of a text.

        Raises:
            _UnreadableError: After the last statement before the place that is not gin.
        """
        try:
            yield from self._parser.ConfigParser(text, _Placeholders())
        except SyntaxError as error:
            raise _UnreadableError(error.lineno or 1, _why(error.msg)) from error
        except tokenize.TokenError as error:
            raise _UnreadableError(error.args[1][0], error.args[0]) from error


def _why(complaint: str) -> str:
    """The parser's complaint in one line; for a bad token it quotes an object's address."""
    token = re.search(r"Failed to parse token '(.*)'", complaint, re.DOTALL)
    return f"{token[1]!r} is not a value" if token else complaint.strip()


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    # Joining an absolute name to a folder gives that name.
    candidates = (folder / name for folder in folders)
    return next((path.resolve() for path in candidates if path.is_file()), None)


def _not_found(name: str, asked_by: str, folders: Sequence[Path]) -> str:
    searched = [] if Path(name).is_absolute() else list(folders)
    rows = [("asked for by", asked_by)]
    rows += [("searched" if at == 0 else "", folder) for at, folder in enumerate(searched)]
    # The working directory may be large; only the folders that hold nothing but gin are listed.
    files = [str(path.relative_to(top)) for top in folders[1:] for path in top.rglob("*.gin")]
    near = difflib.get_close_matches(name, files, n=1)
    fix = f"did you mean {near[0]!r}?" if near else ""
    return message(f"gin file {name!r} not found.", rows, fix)


def _cycle(paths: Sequence[Path]) -> str:
    rows = [("file" if at == 0 else "includes", _shown(path)) for at, path in enumerate(paths)]
    return message("gin files include each other in a circle.", rows, "remove one of the includes")


def _lies_in_checkpoint(path: Path) -> bool:
    """Whether TensorFlow's checkpoint files, or our mark of a complete one, lie beside a file."""
    marks = ("COMMITTED", "*.index", "*.data-?????-of-?????")
    return any(any(path.parent.glob(mark)) for mark in marks)


def _shown(path: Path) -> str:
    """A path as a user would write it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
