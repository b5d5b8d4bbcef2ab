"""Settings from flags, the environment and a file, in this order of precedence.

The flags and the keys of the file come from `settings.variables.SETTINGS`. A setting has one parser for its text from
all three sources.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings
from dbmazz_core.settings.paths import expanded
from dbmazz_core.settings.suggestions import did_you_mean
from dbmazz_core.settings.variables import SETTINGS, Setting

_F = TypeVar("_F", bound=Callable[..., Any])

_BY_KEY = {setting.variable.lower(): setting for setting in SETTINGS}
#: Value of `TABLES` for a command that does not use it. It is never shown.
_ANY_TABLES = "public.*"


def setting_options(*groups: str, without: Collection[str] = ()) -> Callable[[_F], _F]:
    """Return a decorator that adds the flags of settings to a command.

    The command gets a flag's text as a keyword argument whose name is the variable in lower case.

    Args:
        groups: Groups of settings (attributes of `Settings`) that the command uses.
        without: Variables of these groups that the command does not use.
    """
    used = [s for s in SETTINGS if s.group in groups and s.variable not in without]

    def decorate(command: _F) -> _F:
        for setting in reversed(used):  # click lists the option that was added last first
            command = _option(setting)(command)
        return command

    return decorate


def _option(setting: Setting) -> Callable[[_F], _F]:
    help = f"{setting.help[:1].upper()}{setting.help[1:]}. "
    if setting.variable == "SOURCE_URL":
        help += (
            "Every user of the machine can see flags in `ps`: give a password with SOURCE_URL in the environment, "
            "PGPASSWORD or ~/.pgpass instead. "
        )
    if setting.variable == "MASK_KEY":
        help += "Every user of the machine can see flags in `ps`: set MASK_KEY in the environment instead. "
    help += f"[{setting.variable}; default: {setting.default}]" if setting.default else f"[{setting.variable}]"
    if setting.default in ("true", "false"):  # a flag without a value means true
        return click.option(
            setting.flag, setting.variable.lower(), is_flag=False, flag_value="true", metavar="[true|false]", help=help
        )
    return click.option(setting.flag, setting.variable.lower(), metavar="TEXT", help=help)


def load_settings(
    flags: Mapping[str, str | None],
    config: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    tables_needed: bool = True,
) -> Settings:
    """Return the settings. A flag wins over the environment, the environment over the file.

    Args:
        flags: Texts by variable in lower case; None if the flag was not given.
        config: Path of the file.
        env: Environment variables, by default those of the process.
        tables_needed: False if the command does not use `TABLES`.

    Raises:
        ConfigError: A required setting is missing, or a setting is malformed. The error names the flag or the file that
            the text came from, unless it came from the environment.
    """
    env = os.environ if env is None else env
    file = read_file(config) if config is not None else {}
    texts: dict[str, str] = {}
    origins: dict[str, str] = {}
    for key, setting in _BY_KEY.items():
        variable, flag = setting.variable, flags.get(key)
        if flag is not None:
            texts[variable], origins[variable] = flag, setting.flag
        elif env.get(variable) is not None and (env[variable] or setting.required):
            texts[variable] = env[variable]
        elif key in file:
            texts[variable], origins[variable] = file[key], str(config)
    if not tables_needed:
        texts.setdefault("TABLES", _ANY_TABLES)
    try:
        for variable in origins:
            if not texts[variable]:  # an empty variable counts as not set, an empty flag does not
                _BY_KEY[variable.lower()].parse(variable, "")
        return Settings.from_env(texts)
    except ConfigError as error:
        if error.object not in origins:
            raise
        raise ConfigError(
            f"{error.what} (from {origins[error.object]})", object=error.object, remedy=error.remedy
        ) from None


def has_tables(config: Path | None, env: Mapping[str, str] | None = None) -> bool:
    """Return whether the environment or the file sets `TABLES`."""
    env = os.environ if env is None else env
    return bool(env.get("TABLES")) or (config is not None and "tables" in read_file(config))


def read_file(path: Path) -> dict[str, str]:
    """Return the settings of a TOML file as texts by variable in lower case.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or has a key that is not a setting.
    """
    try:
        with Path(expanded("--config", str(path))).open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", object=str(path), remedy="correct --config"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not a TOML file: {error}",
            object=str(path),
            remedy='write lines such as source_slot_name = "shop" and tables = ["public.orders"]',
        ) from None
    return {key: _text(path, key, value) for key, value in content.items()}


def _text(path: Path, key: str, value: object) -> str:
    if key not in _BY_KEY:
        near = difflib.get_close_matches(key.lower(), _BY_KEY, n=1)
        raise ConfigError(
            f"{path} has an unknown key {key!r}{did_you_mean(near)}",
            object=key,
            remedy=f"remove the key, or use one of: {', '.join(_BY_KEY)}",
        )
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case list() if key == "tables" and all(isinstance(item, str) for item in value):
            return ",".join(value)
    kinds = "a string or a list of strings" if key == "tables" else "a string, a number, true or false"
    raise ConfigError(f"{key} in {path} is not {kinds}", object=key, remedy=f"make it {kinds}")
