"""Who maps a piece of physical memory, or a byte of a file: the inverse of page tables."""
