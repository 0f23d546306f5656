"""Side-by-side measurements, one file a subject: `python -m bench --help` is the manual."""
