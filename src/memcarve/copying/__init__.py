"""Moving bytes between files."""
