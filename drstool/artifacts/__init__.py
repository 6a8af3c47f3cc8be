"""How an output comes to be whole, and what it remembers: header, provenance, resuming, locks."""
