"""ELF cores of processes: laid out, written and read."""
