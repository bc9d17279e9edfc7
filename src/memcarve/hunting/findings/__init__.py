"""What deserves an analyst's look, over all processes: what flags say of their memory, and what processes are."""
