"""Where images come from: what each set is, drawing it, reading archives and a user's own files."""
