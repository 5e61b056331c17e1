"""The sum of the gradients of all blocks, made while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import backend_of, cuda_backend, to_device, write_gradient
from dropcore._backends.gradients import Gradient
from dropcore._base.device import on_device
from dropcore.distributed._blocks import Blocks
from dropcore.distributed._group import Alone, Group

__all__ = ["Reduction"]

_BUCKET: Final = 1 << 20
"""Bytes of a bucket, at least: smaller messages cost more than their bytes."""

_LINE: Final = 64
"""Bytes: each gradient begins at a cache line."""

_TAGS: Final = 16
"""The tag of the first bucket."""

Array = NDArray[Any]
Requests = list[Any]


class Reduction:
    """Adds up the gradients of all blocks of a batch.

    Gradients are gathered in buckets, those of the last layers first. A bucket is sent as soon as
    all blocks of this process have filled it, and received while the backward pass goes on.

    With `fixed`, the blocks are added in one binary tree, whatever the number of ranks: each rank
    adds up its own blocks, which are a whole subtree, and the ranks exchange halves, quarters, ...
    of a bucket with the ranks at distance 1, 2, ... (recursive halving), then give back what they
    added in the opposite order. A rank sends and receives 2 (N - 1) / N times the gradient, as in
    a ring. Without it, MPI adds in the order that it finds best.

    Parameters
    ----------
    group : Alone or Group
    params : mapping of str to ndarray
        Those that have gradients.
    blocks : Blocks
    fixed : bool

    References
    ----------
    Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in
    MPICH".
    """

    def __init__(
        self, group: Alone, params: Mapping[str, Array], blocks: Blocks, *, fixed: bool
    ) -> None:
        self._group = group
        self._buckets: list[_Bucket] = []
        self._of: dict[str, _Bucket] = {}
        self._under_way: list[tuple[_Bucket, Iterator[Requests], Requests]] = []
        own, size = blocks.last - blocks.first, 0
        paths: list[str] = []
        for path in reversed(list(params)):
            paths.append(path)
            size += params[path].nbytes
            if size >= _BUCKET:
                self._add_bucket(paths, params, own, fixed)
                paths, size = [], 0
        if paths:
            self._add_bucket(paths, params, own, fixed)

    def _add_bucket(
        self, paths: list[str], params: Mapping[str, Array], own: int, fixed: bool
    ) -> None:
        bucket = _Bucket(self._group, len(self._buckets), paths, params, own, fixed)
        self._buckets.append(bucket)
        self._of |= dict.fromkeys(paths, bucket)

    def add(self, place: int, grads: Mapping[str, Gradient]) -> None:
        """Take gradients of a block of this process, and go on with what is under way.

        Parameters
        ----------
        place : int
            Of the block, among those of this process.
        grads : mapping of str to gradient
            Those of frozen parameters are ignored.
        """
        for path, gradient in grads.items():
            bucket = self._of.get(path)
            if bucket is not None and bucket.take(place, path, gradient):
                exchange = bucket.exchange()
                self._under_way.append((bucket, exchange, next(exchange, [])))
        self._advance()

    def _advance(self) -> None:
        """Take the next steps of all exchanges whose messages have arrived."""
        waiting = []
        for bucket, exchange, requests in self._under_way:
            while requests and requests[0].Testall(requests):
                requests = next(exchange, [])
            if requests:
                waiting.append((bucket, exchange, requests))
        self._under_way = waiting

    def result(self) -> dict[str, Gradient]:
        """The sums, when all blocks have added theirs; valid until the next batch.

        Returns
        -------
        dict of str to ndarray
            By path.
        """
        for _, exchange, requests in self._under_way:
            while requests:
                assert isinstance(self._group, Group)
                self._group.wait(requests)
                requests = next(exchange, [])
        self._under_way = []
        found: dict[str, Gradient] = {}
        for bucket in reversed(self._buckets):
            found |= bucket.result()
        return found


class _Bucket:
    """Gradients of some parameters in one flat array."""

    def __init__(
        self,
        group: Alone,
        number: int,
        paths: list[str],
        params: Mapping[str, Array],
        own: int,
        fixed: bool,
    ) -> None:
        self._group, self._tag, self._own, self._fixed = group, _TAGS + number, own, fixed
        like = params[paths[0]]
        self._backend, self._dtype, start = backend_of("weight", like), like.dtype, 0
        line = _LINE // like.dtype.itemsize
        self._where: dict[str, tuple[slice, tuple[int, ...]]] = {}
        for path in paths:
            shape, size = params[path].shape, params[path].size
            self._where[path] = slice(start, start + size), shape
            start += -(-size // line) * line
        pieces = line * group.size  # for halving
        self._size = -(-start // pieces) * pieces
        self._on_device = on_device(like)
        self._levels = own.bit_length() - 1
        self._spare: list[Array] = []
        self._filled: dict[int, tuple[Array, set[str]]] = {}
        self._sums: dict[tuple[int, int], Array] = {}
        self._sum: Array | None = None
        self._room = self._wire = np.empty(0, self._dtype)
        if group.size > 1:
            aware = isinstance(group, Group) and group.cuda_aware
            self._staged = self._on_device and not aware
            make = self._backend.empty if self._on_device and aware else np.empty
            self._room = make(self._size // 2 if fixed else self._size, self._dtype)
            if self._staged:
                self._wire = np.empty(self._size, self._dtype)

    def take(self, place: int, path: str, gradient: Gradient) -> bool:
        """Copy a gradient of a block; whether all blocks have filled the bucket now."""
        if place not in self._filled:
            self._filled[place] = self._taken_room(), set(self._where)
        room, missing = self._filled[place]
        write_gradient(gradient, self._view(room, path))
        missing.discard(path)
        if missing:
            return False
        del self._filled[place]
        level = 0
        while level < self._levels:  # a binary tree over the blocks of this process
            sibling = self._sums.pop((level, place ^ 1), None)
            if sibling is None:
                self._sums[level, place] = room
                return False
            room += sibling
            self._spare.append(sibling)
            level, place = level + 1, place // 2
        self._sum = room
        return True

    def _taken_room(self) -> Array:
        if self._spare:
            return self._spare.pop()
        room = self._backend.empty((self._size,), self._dtype)
        room[...] = 0
        return room

    def _view(self, room: Array, path: str) -> Array:
        where, shape = self._where[path]
        return room[where].reshape(shape)

    def exchange(self) -> Iterator[Requests]:
        """The steps of the sum over ranks, each when the messages of the one before are through."""
        group, own = self._group, self._sum
        if not isinstance(group, Group) or group.size == 1:
            return
        assert own is not None
        wire = own
        if self._staged:
            wire = self._wire
            wire[...] = to_device(own, "cpu")
        elif self._on_device:
            cuda_backend().synchronize()
        found = wire
        if self._fixed:
            yield from self._in_tree(group, wire)
        else:
            found = self._room
            yield [group.comm.Iallreduce(wire, found)]
        if self._staged:
            own[...] = to_device(found, "cuda")
        elif found is not wire:
            self._sum, self._room = found, wire

    def _in_tree(self, group: Group, wire: Array) -> Iterator[Requests]:
        comm, rank, tag = group.comm, group.rank, self._tag
        low, high, step = 0, len(wire), 1
        done: list[tuple[int, slice, slice]] = []
        while step < group.size:
            partner, middle = rank ^ step, (low + high) // 2
            lower, upper = slice(low, middle), slice(middle, high)
            keep, give = (upper, lower) if rank & step else (lower, upper)
            got = self._room[: middle - low]
            yield [comm.Irecv(got, partner, tag), comm.Isend(wire[give], partner, tag)]
            wire[keep] += got
            if self._on_device and not self._staged:
                cuda_backend().synchronize()
            done.append((partner, keep, give))
            low, high, step = keep.start, keep.stop, 2 * step
        for partner, keep, give in reversed(done):
            yield [comm.Irecv(wire[give], partner, tag), comm.Isend(wire[keep], partner, tag)]

    def result(self) -> dict[str, Array]:
        """The sums by path."""
        own, self._sum = self._sum, None
        if own is None or self._filled or self._sums:
            missing = sorted({path for _, paths in self._filled.values() for path in paths})
            raise RuntimeError(
                f"the backward pass gave no gradient of {', '.join(missing or self._where)}"
            )
        self._spare.append(own)
        return {path: self._view(own, path) for path in reversed(self._where)}
