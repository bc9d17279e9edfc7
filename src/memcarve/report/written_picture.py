"""A picture of processes as a file, SVG or PNG by its ending: built beside its name, for its owner alone."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from memcarve.errors import TargetExistsError, UsageError
from memcarve.report.picture.drawing_memory import drawing_of
from memcarve.report.picture.png_picture import check_png, write_png
from memcarve.report.picture.svg_picture import svg
from memcarve.times import now, rfc3339
from memcarve.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcarve.report.case_document import CaseDocument

_SVG, _PNG = ".svg", ".png"


class Pictures:
    """The files `paths` that a report's pictures are to be.

    `beside` are other files that are written. Raises UsageError for a name that ends in neither ``.svg`` nor ``.png``
    and for a file that is named twice, MissingExtraError, and TargetExistsError.
    """

    def __init__(self, paths: Sequence[str], case: CaseDocument, beside: Sequence[str | os.PathLike[str]] = ()) -> None:
        self._case = case
        taken = {os.path.realpath(path) for path in beside}
        for path in paths:
            if os.path.realpath(path) in taken:
                raise UsageError("is to be written twice", subject=path, remedy="{pictures} names another file")
            taken.add(os.path.realpath(path))
        self._forms = {path: os.path.splitext(path)[1].lower() for path in paths}
        for path, form in self._forms.items():
            if form not in (_SVG, _PNG):
                raise UsageError("is neither .svg nor .png", subject=path, remedy="{pictures} names a file of either")
            if form == _PNG:
                check_png()
            with self._naming():
                self._case.new_file(path).check()

    def write(self) -> list[str]:
        """Write them once the case has been looked at; return notes. Raises OutputError."""
        case, notes = self._case, list[str]()
        if not self._forms:
            return notes
        left = len(case.indexes) - len(case.failed) - len(case.portraits)
        if left > 0:
            notes.append(
                f"{left} of {len(case.indexes)} processes are not in the picture: they have no memory, or are too many"
            )
        drawing = drawing_of(case.title, f"memcarve {__version__}, {rfc3339(now())}", case.portraits)
        for path, form in self._forms.items():
            with self._naming(), self._case.new_file(path) as file, open(file.path, "wb") as out:
                if form == _SVG:
                    out.writelines(f"{line}\n".encode() for line in svg(drawing))
                else:
                    write_png(drawing, out)
                notes += file.notes
        return notes

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Have errors name the option that chooses a picture's name."""
        try:
            yield
        except TargetExistsError as error:
            remedy = "{force} replaces what memcarve wrote, {pictures} chooses another"
            raise TargetExistsError(error.problem, subject=error.subject, remedy=remedy) from error
