"""What is asked of all processes of a container at once: findings, rules, texts, and who owns a page."""
