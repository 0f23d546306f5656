"""A local page to look at runs and to move their latents: `python -m lvae_min.explore` (extra: gradio)."""
