"""The command that mounts an input as a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcarve.cli.exit_status import COMPLETE
from memcarve.cli.frame import choose, open_input
from memcarve.cli.wording import complain, counted, option, say, tell
from memcarve.mount.file_server import serve
from memcarve.mount.mount_point import check_mount_point, check_system, fuse_library, unmounting
from memcarve.mount.mounted_tree import MountedTree

if TYPE_CHECKING:
    from memcarve.cli.option_groups import Input, Messages, MountedProcesses, Mounting


def mount(
    file: str,
    directory: str,
    processes: MountedProcesses,
    mounting: Mounting,
    source: Input,
    messages: Messages,
) -> int:
    """Mount, and serve until it is unmounted."""
    check_mount_point(directory)  # before an image is searched for hours
    check_system(fuse_library())
    with open_input(file, vars(source), messages) as container:
        named = processes.pid or processes.name is not None
        indexes = choose(container, processes) if named or processes.everything else container.certain()
        say(container.notes if messages.verbose else container.warnings, quiet=messages.quiet)
        tree = MountedTree(container, indexes, half=mounting.half, sparse=mounting.sparse, tell=complain, word=option)

        def ready() -> None:
            held = counted(len(indexes), "process")
            left = f"leave it with Ctrl-C, or {unmounting(directory)}"
            tell(f"{held} mounted on {directory}; {left}", quiet=messages.quiet)

        serve(tree, directory, allow_other=mounting.allow_other, ready=ready)
    tell(f"unmounted {directory}", quiet=messages.quiet)
    return COMPLETE
