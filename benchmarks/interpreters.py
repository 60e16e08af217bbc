"""Fresh interpreters, for what can be measured only once in each."""

import asyncio
import os
import sys

from benchmarks.harness import ROOT


async def python(code: str) -> str:
    """What a fresh interpreter prints when it runs ``code`` at the project's root."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{code!r} ended with exit status {process.returncode}")
    return output.decode()
