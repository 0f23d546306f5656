"""A local page to explore runs and to move their latents: `python -m lvae_min.explore` (extra: gradio)."""
