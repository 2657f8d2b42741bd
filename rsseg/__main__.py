"""The command rsseg: rsseg train loss=focal_dice dataset=inria"""

import sys
from importlib import import_module
from pathlib import Path

if not __package__:  # started by this file's path, as other processes are: its folder must not be searched for modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rsseg.commands import COMMANDS
from rsseg.config.entry import one_line_errors
from rsseg.contract import InputError, nearest
from rsseg.version import __version__


def main(name: str = "") -> None:
    """Run the command of this name; without a name, the first word of the command line is the command."""
    name = name or (sys.argv.pop(1) if len(sys.argv) > 1 else "--help")
    with one_line_errors():
        if name in ("-V", "--version"):
            print(f"rsseg {__version__}")
        elif name in ("-h", "--help", "help"):
            lines = [f"  rsseg {command:9} {what}" for command, what in COMMANDS.items()]
            print("\n".join(["Train remote-sensing segmentation, and measure which loss serves which metric.\n", *lines]))
            print("\nrsseg COMMAND --help lists the settings of a command; --version says which rsseg this is.")
        elif name not in COMMANDS:
            raise InputError(f"{name} is no command{nearest(name, COMMANDS)}; rsseg --help lists them")
        elif name == "train":
            import_module("rsseg.commands.train").main()
        else:
            command = import_module(f"rsseg.commands.{name}")
            import_module("rsseg.config.arguments").run_command(command.Arguments, command.run)


if __name__ == "__main__":
    main()
