"""The subcommand ``gtcp serve``: its options and its help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gtcp.cli import options
from gtcp.cli.options import Misuse, or_misuse

if TYPE_CHECKING:
    from gtcp.server.settings import Settings


@click.command()
@click.argument("target")
@click.option(
    "--bind",
    metavar="ADDRESS",
    multiple=True,
    callback=options.addresses,
    help="Listen on this address. Repeatable. Port 0 takes a free port; fd://N is a socket that "
    "the parent process passes.",
)
@click.option(
    "--workers",
    metavar="N",
    help="Number of processes; several are supervised by gunicorn. The default is the variable "
    "WEB_CONCURRENCY, or 1.",
)
@click.option(
    "--config", metavar="FILE.toml", help="Read settings, at top level or in the table [gtcp]."
)
@click.option(
    "--log-level",
    metavar="LEVEL",
    help="debug, info, warning, error or critical, for log lines of gtcp and of the application.",
)
@click.option("--log-file", metavar="FILE", help="Append log lines to this file, not to stderr.")
@click.option("--log-format", metavar="FORMAT", help="text or json, for lines of JSON.")
@click.option(
    "--log-config",
    metavar="FILE",
    help="Configure logging by this TOML or JSON file, in the form of Python's dictConfig.",
)
@click.option("--access-log/--no-access-log", default=None, help="Log one line for every request.")
@click.option(
    "--graceful-timeout", metavar="SECONDS", help="Maximum duration of a drain; 30 by default."
)
@click.option(
    "--admin",
    metavar="ADDRESS",
    help="Serve health and metrics by HTTP at this address, or at this port of 127.0.0.1.",
)
@click.option(
    "--register",
    metavar="URL",
    help="Register the address in ZooKeeper, such as zk://127.0.0.1:2181/services/orders.",
)
@click.option("--tls-cert", metavar="FILE", help="Use TLS, with the certificate in this PEM file.")
@click.option("--tls-key", metavar="FILE", help="Its private key, if it is in another file.")
@click.option(
    "--tls-ca", metavar="FILE", help="Accept client certificates of the authorities in this file."
)
@click.option(
    "--require-client-cert",
    is_flag=True,
    default=None,
    help="Refuse clients without a certificate.",
)
@click.option(
    "--secret-file", metavar="FILE", help="Require clients to prove a secret in this file."
)
@options.no_secret
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Allow connections from other hosts without TLS or a secret.",
)
@click.option(
    "--chdir",
    metavar="DIRECTORY",
    callback=options.change_directory,
    is_eager=True,
    expose_value=False,
    help="Change to this directory, an absolute path. SIGHUP follows symbolic links in it again.",
)
@click.option(
    "--app-dir",
    metavar="DIRECTORY",
    default="",
    help="Look for TARGET in this directory, not in the current one.",
)
@click.option("--factory", is_flag=True, help="TARGET is a function that returns the server.")
@click.option(
    "--pid",
    metavar="FILE",
    help="Write the process id to this file when the server listens; with workers, the master's. "
    "The file is removed at exit.",
)
@click.option(
    "--reload", is_flag=True, help="Restart the workers when a file of the application changes."
)
@click.option("--no-patch", is_flag=True, help="Do not monkey-patch the standard library.")
@click.option(
    "--check-config",
    is_flag=True,
    help="Import TARGET, check the settings and the files that they name, and exit.",
)
@click.option("--print-config", is_flag=True, help="Print the settings as TOML, and exit.")
def serve(
    target: str,
    bind: tuple[str, ...],
    config: str | None,
    app_dir: str,
    factory: bool,
    pid: str | None,
    reload: bool,
    no_patch: bool,
    check_config: bool,
    print_config: bool,
    **flags: str | bool | None,
) -> None:
    """Serve the commands of TARGET.

    At SIGINT or SIGTERM it drains: calls in flight are completed, then it exits with status 0.

    TARGET is module:attribute or path/to/file.py:attribute, and names a gtcp.Server or a
    gtcp.Commands table, or with --factory a function that returns one. The default attribute is
    "server".

    Flags override GTCP_* environment variables, which override --config, which overrides the
    settings in the program. The standard library is monkey-patched for gevent before TARGET is
    imported, so that handlers may block in it.

    \b
    Examples:
      gtcp serve app                      server in app.py, in this directory
      gtcp serve app:server --workers 4
      gtcp serve src/app.py --bind 127.0.0.1:8890 --bind unix:app.sock
      gtcp serve app:make_server --factory --check-config
    """
    from gtcp.cli import serving
    from gtcp.cli.target import TargetError, WrongTarget, parse
    from gtcp.errors import SettingsError
    from gtcp.server.commands.hooks import StartError
    from gtcp.server.process.pid_file import PidFile, PidFileError
    from gtcp.server.settings import Settings

    def layers(base: Settings | None) -> Settings:
        given = {"bind": bind or None, **flags}
        weakest = serving.with_web_concurrency(base or Settings())
        return Settings.load(config, flags=given, base=weakest)

    where = or_misuse(parse, target, directory=app_dir, factory=factory)
    try:
        if check_config or print_config:
            server = serving.load_only(where, layers, patch=not no_patch, check=check_config)
            if print_config:
                click.echo(server.settings.to_toml(), nl=False)
            else:
                click.echo(f"{where}: the configuration is valid")
        else:
            serving.serve(
                where,
                layers,
                reload=reload,
                patch=not no_patch,
                pid_file=None if pid is None else PidFile(pid),
            )
    except (SettingsError, WrongTarget) as exc:
        raise Misuse(str(exc)) from exc
    except (TargetError, StartError, PidFileError, serving.GunicornMissing) as exc:
        raise click.ClickException(str(exc)) from exc
    except OSError as exc:
        raise click.ClickException(exc.strerror or str(exc)) from exc
