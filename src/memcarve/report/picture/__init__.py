"""An address space as a picture for a written report or a terminal: one line of cells, folded where nothing is."""
