"""The dtypes of columns, named once, for annotations: arrays of one dimension unless it is said otherwise."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
#: structured: a row is a record of named fields
Records = npt.NDArray[np.void]

Whole = TypeVar("Whole", bound="np.integer[Any]")
#: of whole numbers of any kind: ``ArrayOf[Whole]``
ArrayOf = npt.NDArray[Whole]
