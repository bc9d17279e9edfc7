"""What hatchling runs to build a wheel: C is compiled; man pages and completions are made of the commands."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildHook(BuildHookInterface[Any]):
    """Adds the compiled parts, and the files that belong below share/."""

    _folder: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files; for an editable install, the compiled parts alone, beside their sources."""
        source = Path(self.root, "src")
        sys.path[:0] = [str(source), str(Path(self.root, "distribution"))]
        from compiled_parts import TAG, compile_parts, platform_tag  # they are there now
        from share_files import share_files

        if version == "editable":
            compile_parts(source, source)
            return
        self._folder = tempfile.mkdtemp()
        for compiled in compile_parts(source, Path(self._folder, "compiled")):
            inside = compiled.relative_to(Path(self._folder, "compiled")).as_posix()
            build_data["force_include"][str(compiled)] = inside
            build_data["pure_python"] = False
            build_data["tag"] = f"{TAG}-{platform_tag()}"
        for path, text in share_files().items():
            file = Path(self._folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
            build_data["shared_data"][str(file)] = f"share/{path}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Remove what is in the wheel by now."""
        if self._folder:
            shutil.rmtree(self._folder)
