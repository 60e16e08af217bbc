"""What the user of the command line can put right: one line on stderr, and exit status 2."""

from __future__ import annotations

import os
from typing import final


@final
class Mistake(Exception):
    """Something in the arguments or the input; its message names the fix."""


def unreadable(name: str, error: OSError) -> Mistake:
    """The mistake of a file that cannot be opened, read or written."""
    return Mistake(f"{name}: {os.strerror(error.errno or 0)}; check its name and permissions")
