"""Real Linux machines whose swap is compressed: how they are made."""
