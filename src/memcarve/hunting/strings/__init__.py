"""Text in memory: ASCII, UTF-8 and UTF-16, whatever pages it crosses."""

from memcarve.hunting.strings.search import FoundString as FoundString, StringSearch as StringSearch, strings as strings
