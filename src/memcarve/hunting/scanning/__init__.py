"""YARA rules over memory as it was laid out: reading rules, what is scanned in one go, hits."""
