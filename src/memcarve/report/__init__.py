"""A report that one opens: a process's memory as one document, as one HTML page with that document in it, as a picture.

``docs/report.md`` describes it; ``report.schema.json`` is the document's JSON Schema.
"""
