"""The layers of settings: a TOML file, the environment, flags. Each returns checked values.

An error names the file, the variable or the flag to correct.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, get_args, get_origin

import msgspec
import msgspec.toml  # reads with tomllib, on Python 3.10 with tomli

from gtcp.errors import SettingsError, SettingsTypeError
from gtcp.masking import MASK, may_be_secret
from gtcp.server.setting_rules import Rule

#: Variables that are read elsewhere: a secret must not be in a Settings, whose repr is logged.
RESERVED_VARIABLES = frozenset({"GTCP_SECRET"})

_PREFIX = "GTCP_"


class Field(NamedTuple):
    """A setting's type and rule, resolved once."""

    hint: Any
    rule: Rule

    @property
    def optional(self) -> bool:
        """Whether None is a value, that is, "no limit"."""
        return type(None) in get_args(self.hint)

    @property
    def several(self) -> bool:
        """Whether the setting has several values, which text separates by commas."""
        return any(get_origin(hint) is tuple for hint in (self.hint, *get_args(self.hint)))

    @property
    def expected(self) -> str:
        """The values that are allowed, in words."""
        return self.rule.expected + (" or none" if self.optional else "")

    def split(self, value: object) -> object:
        """Return text as a list of values if there may be several; else the value itself."""
        if self.several and isinstance(value, str) and not value.isdecimal():
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    def or_none(self, value: object) -> object:
        """Return None for the text "none" if the setting may be None; else the value itself."""
        none = self.optional and isinstance(value, str) and value.lower() == "none"
        return None if none else value


class Fields(dict[str, Field]):
    """The fields of the settings by their names. Never changes."""

    def keyword(self, name: str, value: object) -> Any:
        """Return the value of a keyword as its setting's type.

        Raises:
            SettingsError: it is impossible.
            SettingsTypeError: it has the wrong type.
        """
        return self._checked(name, name, self[name].split(value), shown=value)

    def file(self, path: str) -> dict[str, Any]:
        """Return the settings of a TOML file: the table ``[gtcp]``, else all of it.

        Raises:
            SettingsError: a setting is unknown or impossible, or the file can't be read.
        """
        table = self._table(path, read_toml(path))
        self.refuse_unknown(table, path)
        return {name: self._toml(f"{path}: {name}", name, value) for name, value in table.items()}

    def environment(self, env: Mapping[str, str]) -> dict[str, Any]:
        """Return the settings of the ``GTCP_*`` variables.

        Raises:
            SettingsError: a setting is unknown or impossible.
        """
        given = {
            name: text
            for name, text in env.items()
            if name.startswith(_PREFIX) and name not in RESERVED_VARIABLES
        }
        names = {_PREFIX + name.upper(): name for name in self}
        _refuse_unknown(given, names, "the environment")
        return {names[key]: self._text(key, names[key], text) for key, text in given.items()}

    def flags(self, flags: Mapping[str, object]) -> dict[str, Any]:
        """Return the settings of the flags that were given: those that are not None.

        Raises:
            SettingsError: a setting is unknown or impossible.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        self.refuse_unknown(given, "the flags")
        return {
            name: self._text("--" + name.replace("_", "-"), name, value)
            for name, value in given.items()
        }

    def refuse_unknown(
        self, given: Iterable[str], where: str, kind: type[SettingsError] = SettingsError
    ) -> None:
        """Raise an error of this kind for a name that is not a setting."""
        _refuse_unknown(given, self, where, kind)

    def _table(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        table = document.get("gtcp")
        if not isinstance(table, dict):
            return document
        for name in document:
            if name in self:
                raise SettingsError(f"setting {name!r} in {path} is outside of [gtcp]")
        return table

    def _toml(self, label: str, name: str, value: object) -> Any:
        field = self[name]
        if field.several and isinstance(value, str):  # one value, or several as in a variable
            return self._text(label, name, value)
        return self._checked(label, name, field.or_none(value), shown=value)

    def _text(self, label: str, name: str, value: object) -> Any:
        """Return the value of text, from which numbers and booleans are read."""
        field = self[name]
        read = field.or_none(field.split(value.strip())) if isinstance(value, str) else value
        return self._checked(label, name, read, shown=value, strict=False)

    def _checked(
        self, label: str, name: str, value: object, *, shown: object, strict: bool = True
    ) -> Any:
        """Return ``value`` as its setting's type.

        Args:
            label: names the setting in an error, with the layer that it is from.
            shown: the value as the user wrote it.
            strict: do not read numbers and booleans from text.
        """
        field = self[name]
        try:
            result = msgspec.convert(value, field.hint, strict=strict)
        except (msgspec.ValidationError, OverflowError) as exc:
            wrong_type = strict and isinstance(exc, msgspec.ValidationError)
            _refuse(label, field, shown, SettingsTypeError if wrong_type else SettingsError)
        if result is not None and not field.rule.allows(result):
            _refuse(label, field, shown)
        return result


def _refuse(
    label: str, field: Field, value: object, kind: type[SettingsError] = SettingsError
) -> NoReturn:
    raise kind(f"{label}: expected {field.expected}, got {short(value)}") from None


def _refuse_unknown(
    given: Iterable[str],
    known: Iterable[str],
    where: str,
    kind: type[SettingsError] = SettingsError,
) -> None:
    names = list(known)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if "secret" in name.lower():
                hint = "; secrets are given in a file that secret_file names, or in GTCP_SECRET"
            raise kind(f"unknown setting {short(name)} in {where}{hint}")


def short(value: object) -> str:
    """Return a value as an error message shows it: short, and no secret."""
    if may_be_secret(value):
        return MASK
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


def read_toml(path: str) -> dict[str, Any]:
    """Return the document in a TOML file.

    Raises:
        SettingsError: the file can't be read, or is not TOML.
    """
    try:
        with open(path, "rb") as file:
            document: dict[str, Any] = msgspec.toml.decode(file.read())
    except OSError as exc:
        raise SettingsError(f"cannot read {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise SettingsError(f"cannot read {path}: {exc}") from exc
    return document


def to_toml(value: object) -> str:
    """Return the value of a setting as it is written in a TOML file."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    if value is None:
        return '"none"'
    # TOML's strings and booleans are those of JSON, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
