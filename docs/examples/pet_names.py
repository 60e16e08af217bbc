"""Look up many things at once: every answer, in the order of the questions, in the time of one.

    python docs/examples/pet_names.py --seconds 0.5

The look-ups of an owner's pet wait for a server, so they are coroutines and all run at the same
time. To find all anagrams of the names is work for processors, so it is a plain function and runs
in one process per processor. The pool is the same, and so is the line that calls it.
"""

import argparse
import asyncio
import time
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import permutations

import aiopool

PETS = {
    "Ada": "Biscuit",
    "Bela": "Miau",
    "Chris": "Hector",
    "Dora": "Pixel",
    "Emil": "Schnauz",
    "Fay": "Otto",
    "Gus": "Waldi",
    "Hana": "Momo",
}


async def look_up(table: Mapping[str, str], seconds: float, owner: str) -> str:
    """Ask a server, which takes so many seconds; raises KeyError if it knows of no pet."""
    await asyncio.sleep(seconds)
    return table[owner]


def spellings(name: str) -> int:
    """In how many ways the letters of a name can stand, the hard way."""
    return len(set(permutations(name.lower())))


async def pets_of(
    owners: Iterable[str], pool: aiopool.Pool, *, seconds: float = 0.3, limit: int | None = None
) -> dict[str, str | BaseException]:
    """Owner to pet, in the order of the owners; who has none has the KeyError in its place."""
    owners = list(owners)
    ask = partial(look_up, PETS, seconds)
    pets = await pool.map(ask, owners, limit=limit, return_exceptions=True)
    return dict(zip(owners, pets, strict=True))


async def spellings_of(names: Iterable[str], pool: aiopool.Pool) -> dict[str, int]:
    """Name to number of spellings, in the order of the names, worked out in processes."""
    names = list(names)
    return dict(zip(names, await pool.map(spellings, names), strict=True))


async def program(seconds: float, limit: int | None) -> None:
    owners = [*reversed(PETS), "Ivo"]  # in an order of our own, and one who is not in there
    async with aiopool.Pool() as pool:
        print(f"asking for the pets of {len(owners)} owners")
        start = time.perf_counter()
        pets = await pets_of(owners, pool, seconds=seconds, limit=limit)
        took = time.perf_counter() - start
        for owner, pet in pets.items():
            print(f"{owner:6}{'has no pet' if isinstance(pet, KeyError) else pet}")
        print(f"{len(pets)} look-ups of {seconds} s each in {took:.2f} s")
        for name, count in (await spellings_of(PETS.values(), pool)).items():
            print(f"{name:8}{count:6} spellings")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Look-ups in parallel.")
    parser.add_argument("--seconds", type=float, default=0.3, help="that one look-up takes (0.3)")
    parser.add_argument("--limit", type=int, help="look-ups at the same time (100)")
    options = parser.parse_args()
    aiopool.run(program(options.seconds, options.limit))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
