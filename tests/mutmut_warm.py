"""What the tests of each mutant would do again: mutmut imports this before it forks (see pyproject.toml)."""

import functools

import torch._dynamo  # noqa: F401  # the first optimizer imports it

from lvae_min.datasets import dsprites

dsprites.draw = functools.cache(dsprites.draw)
dsprites.draw()
