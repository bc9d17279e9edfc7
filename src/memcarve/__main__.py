"""``python -m memcarve``."""

from memcarve.cli import main

if __name__ == "__main__":
    main()
