"""What `kvctl` and `python -m kvctl` run.

What a shell asks while somebody types is answered with nothing loaded but what that takes.
"""

import sys


def main() -> None:
    """Run the command line of this process; ends it."""
    if sys.argv[1:2] == ["complete"]:
        from kvctl.cli.complete import complete

        complete(sys.argv[2:])
    else:
        from kvctl.cli import main as commands

        commands.main()


if __name__ == "__main__":
    main()
