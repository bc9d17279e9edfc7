"""Finding the processes of a Linux machine in its memory, and what Linux knows of them."""
