"""Where the bytes of an image come from: the request, a file below the roots, the index."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image
from starlette.exceptions import HTTPException

from nemo_image_curate import storage
from nemo_image_curate.decode.data_url import data_url_content
from nemo_image_curate.decode.header import read_header
from nemo_image_curate.errors import DatasetError, ImageError
from nemo_image_curate.serve.models import ImageData, ImageKey, ImagePath
from nemo_image_curate.serve.settings import Settings
from nemo_image_curate.shards.reader import TarShard

if TYPE_CHECKING:
    from nemo_image_curate.dataset.dataset import ImageTextPairDataset
    from nemo_image_curate.index.hits import Searchable
    from nemo_image_curate.search.live.base import LiveStore

# How many times the bytes that a request may have, the images that it names may have together.
_TOGETHER = 8


class Images:
    """Reads the images that requests name.

    Parameters
    ----------
    settings : Settings
    dataset : ImageTextPairDataset or None
        Whose shards may be read.
    store : LiveStore or None
    indexes : sequence of Searchable
        They know the shard of a key.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: ImageTextPairDataset | None,
        store: LiveStore | None,
        indexes: Sequence[Searchable] = (),
    ):
        self.settings = settings
        self.dataset = dataset
        # Only the dataset's own tars are read, whatever a request calls a shard.
        self.shards: frozenset[str] = frozenset()
        if dataset is not None:
            self.shards = frozenset(
                storage.relative(tar, dataset.path) for tar in dataset.tar_files
            )
        self.store = store
        self.indexes = indexes

    def read(self, image: ImageData | ImagePath | ImageKey) -> bytes:
        """The encoded image that a request gives or names.

        Raises
        ------
        HTTPException
            Saying what is wrong with it.
        """
        if isinstance(image, ImageData):
            url = image.data if image.data[:5].lower() == "data:" else f"data:;base64,{image.data}"
            return data_url_content(url, self.settings.max_body)
        if isinstance(image, ImagePath):
            return self._file(image.path)
        return self.stored(image.key, image.shard)

    def read_all(self, images: Sequence[ImageData | ImagePath | ImageKey]) -> list[bytes]:
        """Those of one request, which may name much more than it holds itself.

        Raises
        ------
        HTTPException
            Saying what is wrong with one, or that they have too many bytes together.
        """
        limit, contents, total = _TOGETHER * self.settings.max_body, [], 0
        for image in images:
            contents.append(self.read(image))
            total += len(contents[-1])
            if total > limit:
                raise HTTPException(
                    413,
                    f"the first {len(contents)} of {len(images)} images have more than {limit} "
                    "bytes together. Name fewer of them in one request.",
                )
        return contents

    def stored(self, key: str, shard: str | None = None) -> bytes:
        """The encoded image of a key of the store or of the dataset, as it was added."""
        if shard is None and self.store is not None:
            try:
                return self.store.image(key)
            except DatasetError:
                pass
        if shard is None:
            shard = self._shard_of(key)
        if self.dataset is None or shard is None:
            raise HTTPException(404, f"there is no image with the key {key!r}.")
        if shard not in self.shards:
            raise HTTPException(404, f"there is no shard {shard!r}.")
        opened = _opened(storage.join(self.dataset.path, shard))
        (data,) = opened.read([self.dataset.tars.image_of(opened, key)])
        if data is None:
            raise HTTPException(404, f"there is no image with the key {key!r} in {shard}.")
        return data

    def _shard_of(self, key: str) -> str | None:
        hits = (index.lookup([(None, key)])[0] for index in self.indexes)
        return next((hit.shard for hit in hits if hit is not None and hit.shard), None)

    def _file(self, path: str) -> bytes:
        if not self.settings.roots:
            raise HTTPException(
                403,
                "this service reads no files of its machine. Send the image as data, or start the "
                "service with the folder as a root: Settings(roots=...).",
            )
        try:
            # Where a link leads counts, not where it lies.
            real = os.path.realpath(path)
            roots = [os.path.realpath(root) for root in self.settings.roots]
            if not os.path.isabs(path) or not any(_is_below(real, root) for root in roots):
                raise HTTPException(403, f"{path!r} is not below a root of this service.")
            # Without waiting: a pipe would, for whoever writes to it. And no link any more: what
            # has become one since then may lead elsewhere.
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                return self._content(descriptor, path)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a usable path"
            raise HTTPException(404, f"cannot read {path!r}: {reason}.") from error

    def _content(self, descriptor: int, path: str) -> bytes:
        limit, info = self.settings.max_body, os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise HTTPException(404, f"{path!r} is not a file.")
        if info.st_size > limit:
            raise HTTPException(413, f"{path!r} has {info.st_size} bytes, limit {limit}.")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)


def media_type(data: bytes) -> str:
    """What encoded bytes are by their header, as a media type that begins with ``image/``.

    Raises
    ------
    ImageError
        When they are no image.
    """
    name = read_header(data).format.upper()
    kind = Image.MIME.get(name, "")
    if not kind.startswith("image/"):
        raise ImageError(f"a {name} file is not served as an image")
    return kind


def _is_below(path: str, root: str) -> bool:
    return os.path.commonpath([path, root]) == root


@lru_cache(maxsize=8)
def _opened(location: str) -> TarShard:
    # Kept open: finding a shard's members takes longer than reading one. Never closed here, since
    # another thread may be reading; the file goes with the last reference.
    return TarShard(location, use_index_file=True).__enter__()
