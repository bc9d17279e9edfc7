"""All that a mounted input shows: its processes by number and by name, each opened when somebody looks into it."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from memcarve.errors import MemcarveError, UsageError
from memcarve.intervals import Intervals
from memcarve.mount.memory_files import FlatFile
from memcarve.mount.process_folder import ProcessFolder
from memcarve.mount.recently_used import RecentlyUsed
from memcarve.mount.virtual_file import Folder, Link, MadeFolder, Text
from memcarve.sinks.flat import Plan, check_length, check_size
from memcarve.sinks.several import folder_name
from memcarve.times import now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcarve.mount.virtual_file import Node
    from memcarve.process import Container
    from memcarve.space import AddressSpace

    #: is told what could not be made or read, as one line that is safe to print
    Told = Callable[[str], object]
    #: words an argument of the library, see errors.py: by its name, and a value or nothing
    Word = Callable[[str, str], str]

_T = TypeVar("_T")
_KEPT = 32 << 20  # bytes of columns, and of heads and documents, that are kept


class MountedTree:
    """The root folder of what is mounted of a `container`: the processes at `indexes` of its list.

    `half` is the half of their memory that is opened, None the container's own. `sparse` shows `flat` and `image.raw`
    however large their gaps are. `tell` is called with what goes wrong, once for each reason; `word` words arguments in
    it, and in documents. Safe to use from several threads.
    """

    def __init__(
        self,
        container: Container,
        indexes: Sequence[int],
        *,
        half: str | None = None,
        sparse: bool = False,
        tell: Told | None = None,
        word: Word | None = None,
    ) -> None:
        self.container = container
        self.begun = now()
        self.sparse = sparse
        self.word: Word = word or (lambda name, value: f"{name}={value}")
        self.half = half or container.default_half
        self._tell = tell
        self._told: set[str] = set()
        self._working = threading.RLock()  # processes are not made for being opened by several threads at once
        self._opened: RecentlyUsed[ProcessFolder] = RecentlyUsed(_KEPT)
        self._made: RecentlyUsed[Any] = RecentlyUsed(_KEPT)
        container.processes()
        taken: Counter[str] = Counter()
        self.indexes = {folder_name(container.entry(index), index, taken): index for index in indexes}
        image = container.physical_space()
        self.root = Folder(
            {
                "by-name": Folder(self._by_name()),
                **({} if image is None or not len(image) else _image(image, sparse=sparse)),
                "processes": _Processes(self),
            }
        )

    def _by_name(self) -> dict[str, Node]:
        links: dict[str, Node] = {}
        for name in self.indexes:
            number, _, word = name.partition("-")
            known = re.fullmatch(r"\d+", number) and word
            # no name begins like an option of whatever is given all names
            called = f"{re.sub('^-', '_', word)}-{number}" if known else name
            links[name if called in links else called] = Link(f"../processes/{name}")
        return dict(sorted(links.items()))

    def find(self, path: str) -> Node | None:
        """Return what lies at a path below the root, which begins with a slash; None if nothing does.

        Raises NotADirectoryError, and MemcarveError if it cannot be made.
        """
        node: Node | None = self.root
        for part in path.split("/"):
            if not part:
                continue
            if not isinstance(node, Folder):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            node = node.find(part)
            if node is None:
                return None
        return node

    def process_folder(self, index: int) -> ProcessFolder:
        """Return the folder of a process, which is opened; raises what opening it raises."""

        def make() -> tuple[ProcessFolder, int]:
            with self._working:
                found = ProcessFolder(self, index, self.container.process(index=index, half=self.half))
            return found, found.cost

        return self._opened.get(index, make)

    def made(self, key: tuple[int, str], make: Callable[[], tuple[_T, int]]) -> _T:
        """Return what takes work to make, kept while there is room; `make` also says how many bytes it takes."""

        def alone() -> tuple[_T, int]:
            with self._working:
                return make()

        found: _T = self._made.get(key, alone)
        return found

    def tell(self, text: str) -> None:
        """Say what went wrong, each thing once."""
        if self._tell is not None and text not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(text)
            self._tell(text)


_MOST_TOLD = 1000


def _image(image: AddressSpace, *, sparse: bool) -> dict[str, Node]:
    """Return a machine's physical memory as a file, the byte at physical address A at offset A, if one can hold it."""
    parts = image.segments()
    end = int(parts.last[-1]) + 1
    try:
        check_length(0, end)
        plan = Plan(0, parts, Intervals.of([(0, end)]).subtract(parts), 0, 0, 0)
        check_size(plan, sparse=sparse)
    except UsageError:
        return {}
    return {"image.raw": FlatFile(image, plan)}


class _Processes(Folder):
    """The folder `processes/`."""

    def __init__(self, tree: MountedTree) -> None:
        super().__init__({name: self._folder(tree, name, index) for name, index in tree.indexes.items()})

    @staticmethod
    def _folder(tree: MountedTree, name: str, index: int) -> Folder:
        """Return a process's folder, which opens it when somebody looks into it."""

        def make() -> Folder:
            try:
                return tree.process_folder(index)
            except MemcarveError as error:
                text = error.worded(tree.word)
                tree.tell(f"{name}: {text}")
                return Folder({"error.txt": Text(f"{text}\n".encode())})

        return MadeFolder(make)
