"""Values of samples' cubes and TIFFs as shards: what is packed, and how it is read again.

Shapes: values[B, P, a, b] of P planes at B samples, all of one shape and type.
"""

from pathlib import Path

import numpy as np

from glczoo.data.sample_files import KEPT_TYPES, SampleFiles, read_image
from glczoo.data.shards import Pack, Shards
from glczoo.errors import GlczooError

__all__ = ["ImageShards", "PackableImages"]


class ImageShards:
    """Shards of values of one shape, P planes of a x b, by a sample's number."""

    def __init__(self, folder: Path) -> None:
        """Open a pack; the shards themselves are opened when they are first read.

        Raises:
            GlczooError: the folder holds no whole pack of values, or a shard is not as it was packed.
        """
        self._shards, pack = Shards(folder), Pack.read(folder)
        whole = [side for side in pack.shape or () if isinstance(side, int) and side > 0]
        if len(whole) != 3 or whole != pack.shape or pack.dtype not in KEPT_TYPES:
            raise GlczooError(
                f"{folder} is no pack of samples' values (shape {pack.shape}, type {pack.dtype!r}); delete it"
            )
        self.shape, self.dtype = tuple(whole), np.dtype(pack.dtype)
        self.folder, self.nodata = folder, pack.nodata

    def has(self, samples: np.ndarray) -> np.ndarray:
        """Which samples are packed, bool[N]."""
        return self._shards.has(samples)

    def read(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """values[B, P, a, b] of samples, and which of them are packed, bool[B]; others are 0.

        Raises:
            GlczooError: a shard is damaged.
        """
        values = np.zeros((len(samples), *self.shape), self.dtype)
        known, ending = np.zeros(len(samples), bool), samples % 100
        for top in np.unique(ending[samples >= 0]).tolist():
            rows = np.flatnonzero((ending == top) & (samples >= 0))
            for name in self._shards.names({str(top), f"{top:02d}"}):
                ids, _, data = self._shards.open(name)
                try:
                    stored = data.view(self.dtype).reshape(len(ids), *self.shape)
                except ValueError:
                    raise GlczooError(
                        f"{self.folder / name}.bin is no pack of {self.shape}; pack it anew"
                    ) from None
                place = ids.searchsorted(samples[rows]).clip(max=max(len(ids) - 1, 0))
                there = ids[place] == samples[rows] if len(ids) else np.zeros(len(rows), bool)
                values[rows[there]] = stored[place[there]]
                known[rows[there]] = True
        return values, known


class PackableImages:
    """Files of samples to be packed, all of the shape and type of the first that can be read."""

    def __init__(self, files: SampleFiles) -> None:
        """Look for the files, and read the first."""
        self._files, self._shards = files, dict[str, dict[int, Path]]()
        for number, path in files.find():
            self._shards.setdefault(f"{number % 100:02d}", {})[number] = path
        self._first = self._read_first()

    def _read_first(self) -> Pack | None:
        paths = (path for top in self.tops() for path in self.of(top).values())
        for path in paths:
            try:
                image = read_image(path, self._files.kind)
            except GlczooError:
                continue
            return Pack(shape=list(image.values.shape), dtype=image.values.dtype.name, nodata=image.nodata)
        return None

    @property
    def title(self) -> str:
        """What a bar says."""
        return self._files.folder.name

    def pack(self) -> Pack:
        """What kind of pack they make: without shards.

        Raises:
            GlczooError: there is no file that can be read.
        """
        if self._first is None:
            folders = ", ".join(f"{folder}/{pattern}" for folder, pattern in self._files.patterns)
            raise GlczooError(f"there is no {self._files.kind} that can be read: {folders}")
        return self._first

    def tops(self) -> list[str]:
        """Names of the shards that there are files for."""
        return sorted(self._shards)

    def of(self, top: str) -> dict[int, Path]:
        """The files of one shard by the samples' numbers, which ascend."""
        return dict(sorted(self._shards.get(top, {}).items()))

    def where(self, top: str) -> Path:
        """Where the files of a shard lie."""
        return self._files.folder

    def kept(self, path: Path) -> bytes:
        """The values of a file.

        Raises:
            GlczooError: it cannot be read, or has another shape or type than the first.
        """
        image, pack = read_image(path, self._files.kind), self.pack()
        found = (list(image.values.shape), image.values.dtype.name, image.nodata)
        if found != (pack.shape, pack.dtype, pack.nodata):
            raise GlczooError(f"{path} holds {found}, the others {(pack.shape, pack.dtype, pack.nodata)}")
        return image.values.tobytes()
