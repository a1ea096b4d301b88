"""The argument SOURCE of ``gtcp schema`` and ``stubs``: where a contract is found.

A TARGET is imported in a forked child, so that two of them can be compared that have the same name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from gtcp.contract.model import Contract, ContractError, read
from gtcp.errors import GtcpError

#: Bytes of a contract that a file may have.
MAX_BYTES = 64 * 2**20

GIT = "git:"

_ADDRESS = re.compile(r".*://.*|unix:.+|\[.*|.*:\d+|[\d.]+|localhost", re.DOTALL)


class SourceError(Exception):
    """No contract is found there: one line that says why."""


def find(source: str, timeout: float, trust: dict[str, Any]) -> Contract:
    """Return the contract of a file, a server, a revision or a target.

    Args:
        source: a file that ends with ``.json``; ``git:REVISION:TARGET``; an address with a port (or
            an IP address, "localhost", "unix:..."); else a target as for ``gtcp serve``.
        timeout: seconds for a server's answer.
        trust: the client's options for TLS and the secret.

    Raises:
        SourceError: there is none.
    """
    try:
        if source.startswith(GIT):
            return _of_revision(source)
        if source.endswith(".json"):
            return _of_file(source)
        if _ADDRESS.fullmatch(source):
            return _of_server(source, timeout, trust)
        return _of_target(source)
    except ContractError as exc:
        raise SourceError(f"{source}: {exc}") from exc


def _of_file(path: str) -> Contract:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES)
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror or exc}") from exc
    return read(text)


def _of_server(address: str, timeout: float, trust: dict[str, Any]) -> Contract:
    from gtcp.client.client import Client

    try:
        with Client(address, timeout=timeout, **trust) as client:
            params = {"op": "commands", "form": "contract"}
            answer = bytes(client.call(0, params, result=msgspec.Raw))
    except (GtcpError, ValueError) as exc:
        raise SourceError(str(exc)) from exc
    if answer.startswith(b"["):  # before 0.3.0 it ignores "form"
        raise SourceError(f"{address}: a server before gtcp 0.3.0, which does not tell its types")
    return read(answer)


# Targets


def _of_target(text: str) -> Contract:
    from gtcp.cli.target import parse

    try:
        target = parse(text)
    except ValueError as exc:
        raise SourceError(str(exc)) from exc
    try:
        return read(_in_child(lambda: _describe(target)))
    except SourceError as exc:
        hint = "" if ":" in text or os.sep in text else " (a server's address needs its port)"
        raise SourceError(f"{exc}{hint}") from exc


def _describe(target: Any) -> bytes:
    from gtcp.patching import patch_all

    patch_all()
    from gtcp.cli.target import TargetError, load
    from gtcp.contract.describe import describe
    from gtcp.errors import SettingsError

    try:
        commands = load(target).commands
    except (TargetError, SettingsError) as exc:
        raise SourceError(str(exc)) from exc
    return msgspec.json.encode(describe(commands))


def _in_child(function: Callable[[], bytes]) -> bytes:
    """Return what a function returns in a forked child; raise the SourceError that it raises."""
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _answer_and_exit(file.fileno(), function)
        os.waitpid(pid, 0)
        file.seek(0)
        outcome, answer = file.read(1), file.read()
    if outcome == b"!":
        raise SourceError(answer.decode())
    if not outcome:
        raise SourceError("importing it ended the process")
    return answer


def _answer_and_exit(output: int, function: Callable[[], bytes]) -> NoReturn:
    """In the child: whatever happens, it goes no further than this."""
    try:
        os.dup2(2, 1)  # what the application prints is not our output
        try:
            answer = b"=" + function()
        except SourceError as exc:
            answer = b"!" + str(exc).encode("utf-8", "replace")
        with open(output, "wb", closefd=False) as file:
            file.write(answer)
    finally:
        os._exit(0)


# Revisions


def _of_revision(source: str) -> Contract:
    from gtcp.cli.target import parse

    revision, _, text = source.removeprefix(GIT).partition(":")
    if not revision or not text:
        raise SourceError(f"{source!r}: expected git:REVISION:TARGET")
    try:
        target = parse(text)
    except ValueError as exc:
        raise SourceError(str(exc)) from exc
    top = _git("rev-parse", "--show-toplevel")
    below = _git("rev-parse", "--show-prefix")
    tree = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{tree}}")
    with tempfile.TemporaryDirectory(prefix="gtcp-") as folder:
        _check_out(tree, Path(folder), top)
        there = Path(folder, "tree", below)
        if not there.is_dir():
            raise SourceError(f"{source}: there is no directory {below} at this revision")

        def describe() -> bytes:
            os.chdir(there)
            answer = _describe(target)
            _refuse_working_tree(os.path.realpath(top), os.path.realpath(folder))
            return answer

        try:
            return read(_in_child(describe))
        except SourceError as exc:
            raise SourceError(f"{source}: {exc}") from exc


def _check_out(tree: str, folder: Path, top: str) -> None:
    """Write the files of a tree; the repository's own index and work tree are left alone."""
    (folder / "tree").mkdir()
    environment = {**os.environ, "GIT_INDEX_FILE": str(folder / "index")}
    _git("-C", top, "read-tree", tree, env=environment)
    _git("-C", top, "checkout-index", "--all", f"--prefix={folder / 'tree'}/", env=environment)


def _git(*args: str, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, env=env, check=False)
    except OSError as exc:
        raise SourceError(f"git: {exc.strerror or exc}") from exc
    if done.returncode:
        why = done.stderr.strip() or f"no such revision: {args[-1].removesuffix('^{tree}')}"
        raise SourceError(f"git: {why}")
    return done.stdout.removesuffix("\n")


def _refuse_working_tree(top: str, folder: str) -> None:
    """Raise if a module came from the working tree, as an editable installation has it.

    Its types would be compared with themselves.
    """
    library = os.path.join(os.path.realpath(sys.prefix), "")
    for name, module in list(sys.modules.items()):
        path = os.path.realpath(getattr(module, "__file__", None) or "/")
        inside = path.startswith(os.path.join(top, "")) and not path.startswith(library)
        of_gtcp = name.partition(".")[0] == "gtcp"
        if inside and not of_gtcp and not path.startswith(os.path.join(folder, "")):
            raise SourceError(
                f"the module {name} was imported from the working tree, not from the revision: "
                "name the file"
            )
