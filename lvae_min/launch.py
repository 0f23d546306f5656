"""Which of torchrun's processes this is; alone, the first of one. ValueError if what it set is no number."""

import os

RANK, WORLD, LOCAL_RANK, LOCAL_WORLD = (
    int(os.environ.get(name, default))
    for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
)
LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ  # by torchrun
