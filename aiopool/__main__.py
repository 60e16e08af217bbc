"""The ``aiopool`` program, also ``python -m aiopool``.

Workers import the module a program was started from, so this one imports next to nothing: what the
command line is made of is loaded by the one process that reads it.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line, or say which extra is missing; exits with its status."""
    try:
        from aiopool.cli import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.stderr.write("aiopool: needs the extra `cli`: pip install 'aiopool-toolkit[cli]'\n")
        sys.exit(2)
    if sys.stderr is None:  # closed: what is said goes nowhere
        sys.stderr = open(os.devnull, "w", errors="replace")  # noqa: PTH123, SIM115
    app(prog_name="aiopool")


if __name__ == "__main__":
    main()
