"""`python -m kvctl`. What a shell asks while somebody types is answered with nothing loaded but what that takes."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["complete"]:
        from kvctl.cli.complete import complete

        complete(sys.argv[2:])
    else:
        from kvctl.cli.main import main

        main()
