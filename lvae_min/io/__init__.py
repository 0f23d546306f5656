"""What makes files safe: written whole or not at all, read within bounds, checked before use."""
