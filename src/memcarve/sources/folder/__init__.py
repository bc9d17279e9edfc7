"""Folders of files as input: carved by memcarve, or named by the addresses they hold."""
