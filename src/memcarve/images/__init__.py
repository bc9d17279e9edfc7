"""A machine's memory: physical ranges, page tables, and what finds processes in it."""
