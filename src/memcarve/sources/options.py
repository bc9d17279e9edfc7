"""What may be said about an input when it is opened."""

from __future__ import annotations

import os
from typing import NamedTuple

from memcarve.errors import UsageError
from memcarve.sources.listings import ListingFiles
from memcarve.vocabulary import InputType, Paging, System, Trust

IMAGE, DUMP, MAP, CORE, MINIDUMP, FOLDER, PROC = InputType


class OpenOptions(NamedTuple):
    """`memory_map`, `dump` and `trust` are for dumps, the others for images; None leaves it to memcarve.

    `input_type` (of vocabulary.InputType) is what the file is, whatever it looks like.

    `memory_map` and `dump` name the other file; `trust` (``"printed"`` or ``"sum"``) the positions to believe; `hashed`
    has the map's SHA-256 taken on the way. `dtb` is the physical address of a page-table root, `system`
    (``"windows"``, ``"linux"``, ``"none"``) whose entries they are, `paging` their kind (``"x64"``, ``"x64-5"``,
    ``"pae"``, ``"x86"``), `limit` how many bytes of virtual memory they may be said to map; `image` says that the file
    is an image whatever lies in it. `regions`, `modules` and `threads` are for both: files that list them.
    """

    memory_map: str | None = None
    dump: str | None = None
    trust: str | None = None
    hashed: bool = False
    dtb: int | None = None
    system: str | None = None
    paging: str | None = None
    limit: int | None = None
    image: bool = False
    regions: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    input_type: str | None = None

    def check(self, path: str) -> None:
        """Raise UsageError for words that there are not, and if what was said of `path` contradicts itself."""
        InputType.check(self.input_type)
        Trust.check(self.trust)
        System.check(self.system)
        Paging.check(self.paging)
        kind = self.input_type
        if kind is None:
            return
        said = f"--input-type {kind} says that the file is "
        if kind != IMAGE and self.for_image:
            raise UsageError(
                f"{path}: {said}no image; --dtb, --os, --paging, --limit, --scan are for images: leave them or it out"
            )
        if kind not in (DUMP, MAP) and self.for_dump:
            raise UsageError(
                f"{path}: {said}no dump that has a map; --map, --dump and --trust are for those: leave them or it out"
            )
        other, option = (self.memory_map, "--map") if kind == MAP else (self.dump, "--dump")
        if kind in (DUMP, MAP) and other is not None and os.path.abspath(other) != os.path.abspath(path):
            raise UsageError(f"{path}: {said}the {kind} itself, and {option} names another; leave one of them out")

    @property
    def listing_files(self) -> ListingFiles:
        """The files that were named as evidence."""
        return ListingFiles(self.regions, self.modules, self.threads)

    @property
    def for_dump(self) -> bool:
        """Whether something was said that only a dump has."""
        return self.memory_map is not None or self.dump is not None or self.trust is not None

    def refuse_other(self, path: str, what: str) -> None:
        """Raise UsageError where something was said that `path`, which is `what`, does not have."""
        if self.for_dump or self.for_image:
            raise UsageError(
                f"{path}: is {what}; --map, --dump, --trust, --dtb, --os, --paging and --limit are for dumps with maps "
                "and for images: leave them out"
            )

    @property
    def for_image(self) -> bool:
        """Whether something was said that only an image has."""
        said = (self.dtb, self.system, self.paging, self.limit)
        return self.image or self.input_type == IMAGE or any(value is not None for value in said)
