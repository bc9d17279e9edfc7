"""A Linux kernel whose types are not at hand: found and read by what its structures look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.images.linux.kernel import FirstTask, kernel_of
from memcarve.images.linux.kernel_structures import Structures
from memcarve.images.linux.landmarks import by_distance
from memcarve.images.linux.learning.clock_members import learn_clock
from memcarve.images.linux.learning.file_members import learn_files
from memcarve.images.linux.learning.first_task_shape import shapes
from memcarve.images.linux.learning.learned_types import LearnedTypes
from memcarve.images.linux.learning.memory_members import learn_spaces
from memcarve.images.linux.learning.namespace_members import learn_namespaces
from memcarve.images.linux.learning.region_members import learn_regions
from memcarve.images.linux.learning.switched_members import learn_switched
from memcarve.images.linux.learning.task_members import learn_tasks

_MOST_TRIED = 8  # kernels: that of a guest may lie in memory, too

if TYPE_CHECKING:
    from memcarve.images.linux.kernel import Kernel
    from memcarve.images.linux.landmarks import Landmarks
    from memcarve.images.linux.learning.first_task_shape import Shape
    from memcarve.images.physical import PhysicalMemory


def learned_kernel(memory: PhysicalMemory, landmarks: Landmarks, *, quick: bool = False) -> Kernel | None:
    """Return the kernel, with what could be learned of its types; None if there is none.

    `quick` is that of `find_kernel`. Raises ProcessError if its page tables claim too much.
    """
    names = by_distance(landmarks.names, [banner.physical for banner in landmarks.banners])
    possible = [*shapes(memory, names)]
    for _ in range(_MOST_TRIED):
        firsts = {_first(shape): shape for shape in possible}
        kernel = kernel_of(memory, firsts, landmarks.information, quick=quick)
        if kernel is None:
            return None
        shape = next(shape for first, shape in firsts.items() if first.types is kernel.first.types)
        types = LearnedTypes(shape.word)
        structures = Structures(kernel.space, types, kernel.table.kernel_half)
        if _learn(kernel._replace(structures=structures), shape, types):
            # what it was asked for while it was not known is asked for again
            structures = Structures(kernel.space, types, kernel.table.kernel_half)
            return kernel._replace(structures=structures, first=kernel.first._replace(types=types))
        possible.remove(shape)
    return None


def _first(shape: Shape) -> FirstTask:
    """Return the first task with what its shape tells: its children are in a list that leads back, as all tasks are."""
    ring = LearnedTypes(shape.word)
    ring.put_list("task_struct", "tasks", shape.real_parent + 2 * shape.word)
    return FirstTask(shape.address, shape.physical, ring)


def _learn(kernel: Kernel, shape: Shape, types: LearnedTypes) -> bool:
    """Learn as much as can be; return False if there are no tasks, without which nothing is believed."""
    tasks = learn_tasks(kernel.structures, shape, types)
    if tasks is None:
        return False
    learn_namespaces(tasks, types)
    learn_switched(tasks, types, kernel.table.mode)
    learn_clock(kernel, types)
    spaces = learn_spaces(kernel, tasks, types)
    regions = None if spaces is None else learn_regions(spaces)
    if spaces is not None and regions is not None:
        learn_files(spaces, regions, tasks)
    return True
