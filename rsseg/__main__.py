"""The command rsseg: rsseg train loss=focal_dice dataset=inria"""

import sys
from importlib import import_module
from pathlib import Path

if not __package__:  # a further process is started by this file's path, and its folder is no place of modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rsseg.commands import COMMANDS
from rsseg.config.entry import one_line_errors
from rsseg.contract import InputError, nearest
from rsseg.version import __version__


def main() -> None:
    """Run the command that the command line names."""
    with one_line_errors():
        run(sys.argv[1] if len(sys.argv) > 1 else "--help")


def run(name: str) -> None:
    """Run a command by its name.

    Raises:
        InputError: If there is none of the name.
    """
    if name in ("-V", "--version"):
        print(f"rsseg {__version__}")
    elif name in ("-h", "--help", "help"):
        lines = [f"  rsseg {command:9} {what}" for command, what in COMMANDS.items()]
        print("\n".join(["Train remote-sensing segmentation, and measure which loss serves which metric.\n", *lines]))
        print("\nrsseg COMMAND --help lists the settings of a command; --version says which rsseg this is.")
    elif name not in COMMANDS:
        raise InputError(f"{name} is no command{nearest(name, COMMANDS)}; rsseg --help lists them")
    else:
        del sys.argv[1]
        import_module(f"rsseg.commands.{name}").main()


if __name__ == "__main__":
    main()
