"""The command line: parse, call, print. One module a command group; nothing imports this package.

Exit codes: 0 done, 1 it could not be done (one line on stderr says why), 2 wrong usage.
"""

import importlib
import sys
from typing import Any

import click

# command -> (module, attribute): loaded only when asked for, since a mount should not wait for tables.
_COMMANDS = {
    "mount": ("mount", "mount"),
    "umount": ("mount", "umount"),
    "mounts": ("mount", "mounts"),
    "refresh": ("mount", "refresh"),
    "reexec": ("mount", "reexec"),
    "run": ("container", "run"),
    "ps": ("container", "ps"),
    "exec": ("container", "execute"),
    "logs": ("container", "logs"),
    "top": ("container", "top"),
    "inspect": ("container", "inspect"),
    "kill": ("container", "kill"),
    "start": ("container", "start"),
    "rm": ("container", "rm"),
    "commit": ("container", "commit"),
    "bundle": ("container", "make_bundle"),
    "info": ("info", "info"),
    "snapshotter": ("snapshotter", "snapshotter"),
    "install-helpers": ("helpers", "install_helpers"),
    "explain": ("views", "explain"),
    "diff": ("views", "diff"),
    "check": ("check", "check"),
    "image": ("image", "image"),
    "system": ("system", "system"),
    "verify": ("verify", "verify"),
}


class _Lazy(click.Group):
    """Loads the module of a command when it is used, and ends every known error in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **(kwargs | {"standalone_mode": False}))
        except click.exceptions.Exit as ended:
            sys.exit(ended.exit_code)
        except click.UsageError as error:
            error.show()
            sys.exit(2)
        except click.ClickException as error:
            _fail(error.format_message())
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted")
        except BrokenPipeError:
            sys.stderr.close()  # or the interpreter complains when it flushes
            sys.exit(1)
        except OSError as error:
            from ..daemon import in_words

            _fail(in_words(error))
        except ValueError as error:
            _fail(str(error))


def _fail(words: str) -> None:
    click.echo(f"pyunionfs: {words}", err=True)
    sys.exit(1)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pyunionfs")
def main() -> None:
    """A union filesystem: several directories shown as one.

    The layers of a union are stacked. LOWER layers are only read; one UPPER directory, if there is one, takes
    all changes. Writing to a file of a lower layer first copies it up; deleting one leaves a "whiteout" that
    hides it. It is how containers share an image, and it follows the Linux kernel's overlayfs to the letter:
    both can mount the same directories.

    \b
    Try it:
      mkdir lower upper merged && echo hello > lower/file
      pyunionfs mount --lower lower --upper upper merged
      echo world >> merged/file     # copy-up: see upper/file
      pyunionfs explain merged/file
      pyunionfs umount merged
    """
