"""The changes between two contracts, and whose calls they break.

Services are not deployed at one moment, so two directions are looked at: an old client with a new
server, and a new client with an old server. The rules are in docs/how-to/contract.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec.structs import replace

from gtcp.contract.compatible import Comparison, Problem, Side, show
from gtcp.contract.model import Class, Command, Contract, Type

#: Whose calls break: those of old clients with a new server, or of new clients with an old one.
Direction = Literal["old-client", "new-client"]

OLD: Direction = "old-client"
NEW: Direction = "new-client"


class Change(msgspec.Struct, omit_defaults=True):
    """One change.

    Attributes:
        cmdid: of the command.
        command: its name.
        path: where, such as ``params.lines[].count``; empty for the command itself.
        text: what has changed, one sentence.
        breaks: whose calls break; None if none do.
    """

    cmdid: int
    command: str
    path: str
    text: str
    breaks: Direction | None = None


def diff(old: Contract, new: Contract) -> list[Change]:
    """Return the changes from one contract to another, in order of the cmdids.

    Adding a command breaks no call that existed, so it is no break.
    """
    before = {each.cmdid: each for each in old.commands}
    after = {each.cmdid: each for each in new.commands}
    moved = {each.name: each.cmdid for each in new.commands if each.cmdid not in before}
    changes: list[Change] = []
    for cmdid in sorted({*before, *after}):
        if cmdid not in before:
            changes.append(Change(cmdid, after[cmdid].name, "", "the command was added"))
        elif cmdid not in after:
            name = before[cmdid].name
            where = f"moved to {moved[name]}" if name in moved else "removed"
            changes.append(Change(cmdid, name, "", f"the command was {where}", OLD))
        else:
            changes += _CommandDiff(old, new, before[cmdid], after[cmdid]).changes()
    return changes


class _CommandDiff:
    """Compares two commands with the same cmdid."""

    def __init__(self, old: Contract, new: Contract, before: Command, after: Command) -> None:
        self.old, self.new = old.types, new.types
        self.before, self.after = before, after

    def changes(self) -> Iterator[Change]:
        yield from self._of_the_command()
        yield from self._of_types("params", self.before.params, self.after.params)
        yield from self._of_types("result", self.before.result, self.after.result)

    def _change(self, path: str, text: str, breaks: Direction | None = None) -> Change:
        return Change(self.after.cmdid, self.after.name, path, text, breaks)

    def _of_the_command(self) -> Iterator[Change]:
        before, after = self.before, self.after
        if before.name != after.name:
            text = f"its name was {before.name!r}: calls by name do not find it"
            yield self._change("", text, OLD)
            yield self._change("", text, NEW)
        if before.streaming != after.streaming:
            text = "it streams" if after.streaming else "it does not stream any more"
            yield self._change("", f"{text}: it was called otherwise", OLD)
            yield self._change("", f"{text}: it is called otherwise", NEW)
        if before.idempotent != after.idempotent:
            if after.idempotent:
                text = "it is idempotent now: new clients retry calls of old servers"
                yield self._change("", text, NEW)
            else:
                text = "it is not idempotent any more: old clients retry calls"
                yield self._change("", text, OLD)
        if before.deprecated != after.deprecated:
            text = f"it is deprecated: {after.deprecated}" if after.deprecated else ""
            yield self._change("", text or "it is not deprecated any more")
        yield from self._of_errors()

    def _of_errors(self) -> Iterator[Change]:
        before = {each.code: each.name for each in self.before.errors}
        after = {each.code: each.name for each in self.after.errors}
        for code in sorted({*before, *after}):
            if code not in after:
                yield self._change("errors", f"{before[code]} ({code}) is not declared any more")
            elif code not in before:
                text = f"{after[code]} ({code}) was added: old clients get a RemoteError"
                yield self._change("errors", text)
            elif before[code] != after[code]:
                yield self._change("errors", f"{code} was {before[code]}, now it is {after[code]}")

    def _of_types(self, what: str, before: Type, after: Type) -> Iterator[Change]:
        """Params go from client to server, results from server to client."""
        sender, receiver = ("client", "server") if what == "params" else ("server", "client")
        to_new = Comparison(
            Side(f"an old {sender}", self.old), Side(f"a new {receiver}", self.new)
        ).problems(before, after, what)
        to_old = Comparison(
            Side(f"a new {sender}", self.new), Side(f"an old {receiver}", self.old)
        ).problems(after, before, what)
        by_old, by_new = (to_new, to_old) if what == "params" else (to_old, to_new)
        broken = set()
        for direction, problems in ((OLD, by_old), (NEW, by_new)):
            for path, text in _once(problems):
                broken.add(path)
                yield self._change(path, text, direction)
        for path, text in _once(_Differences(self.old, self.new).of(before, after, what)):
            if path not in broken:
                yield self._change(path, text)


def _once(problems: Iterator[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))


class _Differences:
    """Lists how two types differ, whether that is a break or not; each pair of classes once."""

    def __init__(self, old: dict[str, Class], new: dict[str, Class]) -> None:
        self.old, self.new = old, new
        self._seen: set[tuple[str, str]] = set()

    def of(self, before: Type, after: Type, path: str) -> Iterator[Problem]:
        parts = (before.items, after.items)
        if before.kind == after.kind == "ref":
            yield from self._of_classes(before.name, after.name, path)
        elif before.kind == after.kind and parts[0] is not None and parts[1] is not None:
            if replace(before, items=None) != replace(after, items=None):
                yield Problem(path, f"was {show(before)}, now {show(after)}")
            ending = "{}" if before.keys is not None else "[]"
            yield from self.of(parts[0], parts[1], path + ending)
        elif before.kind == after.kind == "union" and len(before.types) == len(after.types):
            for one, other in zip(before.types, after.types, strict=True):
                yield from self.of(one, other, path)
        elif before != after:
            yield Problem(path, f"was {show(before)}, now {show(after)}")

    def _of_classes(self, before: str, after: str, path: str) -> Iterator[Problem]:
        if (before, after) in self._seen:
            return
        self._seen.add((before, after))
        one, other = self.old[before], self.new[after]
        if one.kind == other.kind == "enum":
            added = [each for each in other.members.values() if each not in one.members.values()]
            gone = [each for each in one.members.values() if each not in other.members.values()]
            if added or gone:
                texts = [f"{each!r} was added" for each in added]
                texts += [f"{each!r} was removed" for each in gone]
                yield Problem(path, ", ".join(texts))
            return
        fields = {each.wire_name: each for each in one.fields}
        others = {each.wire_name: each for each in other.fields}
        for name in {**fields, **others}:
            where = f"{path}.{name}"
            if name not in others:
                yield Problem(where, "the field was removed")
            elif name not in fields:
                what = "a required" if others[name].required else "an optional"
                yield Problem(where, f"{what} field was added")
            else:
                if fields[name].required != others[name].required:
                    now = "required" if others[name].required else "optional"
                    yield Problem(where, f"the field is now {now}")
                yield from self.of(fields[name].type, others[name].type, where)
        if (one.tag_field, one.tag) != (other.tag_field, other.tag):
            yield Problem(path, f"its tag was {one.tag!r}, now {other.tag!r}")
        name = "forbid_unknown_fields"
        if one.has(name) != other.has(name):
            how = "refused" if other.has(name) else "ignored"
            yield Problem(path, f"unknown fields are {how} now")
