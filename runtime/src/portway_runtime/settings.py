"""Settings from four sources: defaults < TOML file < environment < flags.

A program describes each setting once, in a table; flags, environment variables, the file's keys and the help all come
from it. Here: reading the sources, errors that name the setting and where its value came from, and which variables are
somebody else's. Not here: which settings exist, and rules between them.
"""

import argparse
import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from portway_runtime.errors import SettingsError

# The key of the setting that names the file; it is a flag and a variable, never a key of the file.
CONFIG: Final = "config"
# That of the form of log lines.
LOG_FORMAT: Final = "log_format"
# What Kubernetes sets in every container for each service of the namespace, after the service's name in capitals: of a
# service named portway-relay, PORTWAY_RELAY_SERVICE_HOST, _SERVICE_PORT, _SERVICE_PORT_HTTPS, _PORT, _PORT_443_TCP,
# _PORT_443_TCP_PROTO, _PORT and _ADDR. Docker's links set the same. The value of _PORT is a URL.
_OF_SERVICE: Final = re.compile(
    r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_PORT_OF_SERVICE: Final = re.compile(r"(?:\w+_)?PORT")
_SERVICE_URL: Final = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `key` is its key in the file. The flag has dashes for underscores; the variable has the program's
    prefix and capitals.

    parse: makes the value from text; raises ValueError, whose text says which values are allowed.
    repeatable: the flag may be given several times, the file may hold a list, the variable a list with commas; the
        value is a tuple.
    """

    key: str
    parse: Callable[[str], Any]
    help: str
    metavar: str = "VALUE"
    required: bool = False
    repeatable: bool = False

    @property
    def flag(self) -> str:
        return flag(self.key)


def flag(key: str) -> str:
    """The flag of a setting."""
    return "--" + key.replace("_", "-")


class SettingTable:
    """The settings of one program."""

    def __init__(self, program: str, prefix: str, settings: Sequence[Setting], *, empty_unsets: bool) -> None:
        """
        program: the command, for the advice to call its `--help`.
        prefix: the beginning of its variables, such as "PORTWAY_RELAY_".
        empty_unsets: a variable with empty text counts as not set.
        """
        self._program = program
        self._prefix = prefix
        self._empty_unsets = empty_unsets
        self.by_key: Mapping[str, Setting] = {setting.key: setting for setting in settings}

    def variable(self, key: str) -> str:
        """The environment variable of a setting."""
        return self._prefix + key.upper()

    def load(self, flags: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        """The values of all settings that a source gives, by key. Defaults are the caller's.

        flags: values of the command line by key; None for a flag that was not given.

        A variable with the program's prefix that is no setting is refused, unless it is one that Kubernetes sets for a
        service. One of these that has a setting's name is refused, unless a flag overrides it.

        Raises SettingsError for a setting that is unknown, required and missing, or refused by its `parse`, and for a
        file that cannot be read.
        """
        found: dict[str, tuple[Any, str]] = {}  # the raw value, and where it came from
        path = flags.get(CONFIG) or environment.get(self.variable(CONFIG))
        if path:
            found |= self._read_file(Path(path))
        found |= self._read_environment(environment)
        for key, setting in self.by_key.items():
            if flags.get(key) is not None:
                found[key] = (flags[key], setting.flag)
        missing = [one.flag for one in self.by_key.values() if one.required and one.key not in found]
        if missing:
            raise SettingsError(f"{', '.join(missing)} missing: give each as a flag, in the environment or in the file")
        for value, source in found.values():
            self._refuse_service_url(source, value)
        return {key: _parse(self.by_key[key], value, source) for key, (value, source) in found.items()}

    def log_format(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        """The setting LOG_FORMAT, for an error in one of the sources: what a command line, the environment or the file
        says as far as they can be read. `text` where none does."""
        flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        flags.add_argument(flag(LOG_FORMAT))
        flags.add_argument(flag(CONFIG))
        given = argparse.Namespace(log_format=None, config=None)
        with suppress(argparse.ArgumentError):  # a flag without its value
            flags.parse_known_args(list(words), given)
        found = given.log_format or environment.get(self.variable(LOG_FORMAT))
        path = given.config or environment.get(self.variable(CONFIG))
        if not found and path:
            with suppress(SettingsError):
                found = self._read_file(Path(path)).get(LOG_FORMAT, ("", ""))[0]
        return "json" if str(found).lower() == "json" else "text"

    def _read_file(self, path: Path) -> dict[str, tuple[Any, str]]:
        try:
            with path.open("rb") as file:
                content = tomllib.load(file)
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not TOML: {error}") from error
        for key in content:
            if key not in self.by_key:
                raise self._unknown_setting(f"{path} has the key", key, self.by_key)
        return {key: (value, f"{key} in {path}") for key, value in content.items()}

    def _read_environment(self, environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
        by_variable = {self.variable(key): setting for key, setting in self.by_key.items()}
        found: dict[str, tuple[Any, str]] = {}
        for variable, value in environment.items():
            if not variable.startswith(self._prefix) or variable == self.variable(CONFIG):
                continue
            setting = by_variable.get(variable)
            if setting is None:
                if not _is_of_service(variable.removeprefix(self._prefix), value):
                    raise self._unknown_setting("the environment has", variable, by_variable)
            elif value or not self._empty_unsets:
                found[setting.key] = (value.split(",") if setting.repeatable else value, variable)
        return found

    def _refuse_service_url(self, variable: str, value: Any) -> None:
        """Such as PORTWAY_RELAY_PUBLIC_PORT=tcp://10.0.0.1:443, of a service named portway-relay-public."""
        name = variable.removeprefix(self._prefix)
        if name != variable and isinstance(value, str) and _PORT_OF_SERVICE.fullmatch(name) and _is_url(value):
            service = variable.removesuffix("_PORT").replace("_", "-").lower()
            key = name.lower()
            raise SettingsError(
                f"{variable} is {value!r}, which Kubernetes sets for a service named {service!r}: rename the service, "
                f"or set enableServiceLinks: false for the pod, or give {flag(key)}"
            )

    def _unknown_setting(self, what: str, name: str, known: Mapping[str, Setting]) -> SettingsError:
        by_form = {one.lower().replace("-", "_"): one for one in known}
        near = [by_form[one] for one in difflib.get_close_matches(name.lower().replace("-", "_"), by_form, n=1)]
        advice = f"did you mean {near[0]!r}?" if near else f"`{self._program} --help` lists all settings"
        return SettingsError(f"{what} {name!r}, which is not a setting: {advice}")


def _is_of_service(name: str, value: str) -> bool:
    """Whether a variable, named without the program's prefix, is one that Kubernetes sets for a service."""
    return _OF_SERVICE.fullmatch(name) is not None or (_PORT_OF_SERVICE.fullmatch(name) is not None and _is_url(value))


def _is_url(value: str) -> bool:
    return _SERVICE_URL.fullmatch(value) is not None


def with_defaults(settings: Iterable[Setting], config: Any) -> list[Setting]:
    """The settings, with the default of each at the end of its help, or that it is required. `config`: the program's
    dataclass of settings. Defaults that mean that nothing is set (None, 0) are left out."""
    defaults = {one.name: one.default for one in fields(config) if one.default is not MISSING}

    def told(setting: Setting) -> str:
        if setting.required:
            return f"{setting.help} (required)"
        default = defaults.get(setting.key)
        return f"{setting.help} (default {default})" if default else setting.help

    return [replace(setting, help=told(setting)) for setting in settings]


def add_flags(parser: argparse.ArgumentParser, settings: Sequence[Setting], title: str = "") -> None:
    """A flag for each setting, in a group of that title if there is one. Values stay text until SettingTable.load."""
    group = parser.add_argument_group(title) if title else parser
    for setting in settings:
        group.add_argument(
            setting.flag,
            dest=setting.key,
            metavar=setting.metavar,
            action="append" if setting.repeatable else "store",
            help=setting.help.replace("%", "%%"),
        )


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that names the TOML file."""
    parser.add_argument(flag(CONFIG), metavar="FILE", type=Path, help="a TOML file with any of the settings below")


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser that accepts these words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"use one of {', '.join(choices)}")
        return text.lower()

    return parse


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser for whole numbers from `least` to `most`, both included."""
    allowed = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise ValueError(f"use {allowed}")
        return int(text)

    return parse


def _parse(setting: Setting, value: Any, source: str) -> Any:
    if setting.repeatable:
        values = value if isinstance(value, list) else [value]
        return tuple(_parse_one(setting, one, source) for one in values)
    return _parse_one(setting, value, source)


def _parse_one(setting: Setting, value: Any, source: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise SettingsError(f"{source}: {value!r} cannot be used: {setting.help}")
    try:
        return setting.parse(str(value))
    except ValueError as error:
        raise SettingsError(f"{source}: {str(value)!r} cannot be used: {error}") from None
