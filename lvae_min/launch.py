"""Which of torchrun's processes this is; without torchrun, the first of one.

Importing it raises ValueError if the environment says something else than torchrun does.
"""

import os


def number(name: str, least: int) -> int:
    """The environment's `name`, and `least` if it is not set."""
    found = os.environ.get(name, str(least))
    if not (found.isdecimal() and int(found) >= least):
        raise ValueError(
            f"{name} is {found!r} in the environment: expected a whole number of at least {least}, "
            "as torchrun sets it; unset it to run without torchrun"
        )
    return int(found)


RANK, WORLD = number("RANK", 0), number("WORLD_SIZE", 1)
LOCAL_RANK, LOCAL_WORLD = number("LOCAL_RANK", 0), number("LOCAL_WORLD_SIZE", 1)
LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ  # by torchrun
if RANK >= WORLD:
    raise ValueError(
        f"RANK is {RANK} and WORLD_SIZE is {WORLD} in the environment: expected a smaller rank, "
        "as torchrun sets it; unset both to run without torchrun"
    )
