"""Numbers that stand for where bytes lie, others in each run: nobody can make memory that is taken for other."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from memcarve.dtypes import U64
    from memcarve.searching.memory import Memory

_SECRET = np.uint64(secrets.randbits(64))


def mixed(values: U64) -> U64:
    """Return numbers (uint64) mixed with a secret so that each bit of one changes all bits (splitmix64's steps)."""
    value = values + _SECRET
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))


def image_of(space: Memory) -> object:
    """Return what spaces share whose bytes at the same offset are the same: an image, with page files behind it or not.

    Those lie at the same places in all spaces of a container.
    """
    return getattr(space.backing, "backing", space.backing)


def of_object(thing: object) -> np.uint64:
    """Return a number that no other object has for as long as this one lives: a backing's."""
    return np.uint64(mixed(np.array([id(thing)], np.uint64))[0])
