"""`Searcher`: queries by text, image, or both, over indexes and live stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nemo_image_curate import storage
from nemo_image_curate.dataset.dataset import ImageTextPairDataset
from nemo_image_curate.decode.inputs import ImageInput, image_content
from nemo_image_curate.embedders.base import embed_all_images
from nemo_image_curate.embedders.text_image import require_text_side, similarity
from nemo_image_curate.errors import (
    ConfigError,
    CurateError,
    DatasetError,
    EncoderMismatchError,
)
from nemo_image_curate.index.hits import Hit, Searchable
from nemo_image_curate.index.vector_index import VectorIndex, index_path
from nemo_image_curate.search.captions import CaptionIndex, captions_path
from nemo_image_curate.search.execution import Job, answers, lookup
from nemo_image_curate.search.query import Query, direction

if TYPE_CHECKING:
    from nemo_image_curate.embedders.base import ImageEmbedder
    from nemo_image_curate.search.live.base import LiveStore

Value = TypeVar("Value", str, bytes)


class Searcher:
    """Finds images by text, by image or by both, and captions by image.

    The one place where a query becomes an answer: Python, the command line and the service all
    come through here.

    Parameters
    ----------
    embedder : ImageEmbedder or None
        Embeds the queries; text queries need one with a text tower, such as `OpenCLIPEmbedder` or
        `ConseEmbedder`. Without one, queries are the keys of stored images (``like=``).
    images : Searchable or sequence of Searchable
        Image vectors, such as a `VectorIndex` and ``ChromaStore.images``; answers are merged.
    texts : Searchable or sequence of Searchable, optional
        Vectors of captions, for searches ``over="texts"``.
    captions : CaptionIndex, optional
        For ``fuse_captions=True``.
    device : str, default "cpu"
        Where queries are embedded.
    """

    def __init__(
        self,
        embedder: ImageEmbedder | None,
        images: Searchable | Sequence[Searchable],
        texts: Searchable | Sequence[Searchable] | None = None,
        captions: CaptionIndex | None = None,
        device: str = "cpu",
    ):
        self._embedder = embedder
        # What the dataset records of its embeddings, to make their embedder when it is needed.
        self._recorded: Mapping[str, Any] = {}
        self.images = images
        self.texts = texts
        self.captions = captions
        self.device = device

    @classmethod
    def open(
        cls,
        dataset: ImageTextPairDataset,
        embedder: ImageEmbedder | None = None,
        store: LiveStore | None = None,
        device: str = "cpu",
    ) -> Searcher:
        """The searcher of a dataset, with the indexes that lie beside it.

        Parameters
        ----------
        dataset : ImageTextPairDataset
        embedder : ImageEmbedder, optional
            Default: the one that the dataset's ``image_embedding`` was made with, as soon as a
            text or an image is to be embedded; a search ``like`` a stored image needs none.
        store : ChromaStore or MilvusStore, optional
            A live store to search along with the dataset; or in place of its indexes, when the
            dataset was loaded into it (`MilvusStore.add_dataset`).
        device : str, default "cpu"

        Raises
        ------
        DatasetError
            When there is neither an index of ``image_embedding`` nor a store that has these, or
            the index is of another dataset.
        EncoderMismatchError
            When an index was made with another encoder than the embedder's.
        """
        images: list[Searchable] = []
        texts: list[Searchable] = []
        # What holds the dataset's own vectors is searched in place of an index of them.
        if store is None or not store.images.has_shards():
            images.append(_load(dataset, "image_embedding"))
        if storage.is_dir(index_path(dataset, "text_embedding")) and not (
            store is not None and store.texts.has_shards()
        ):
            texts.append(_load(dataset, "text_embedding"))
        if store is not None:
            images.append(store.images)
            texts.append(store.texts)
        captions = None
        if storage.stat(captions_path(dataset)):
            captions = CaptionIndex.load(captions_path(dataset), dataset)
        searcher = cls(embedder, images, texts or None, captions, device)
        searcher._recorded = dataset.provenance.get("image_embedding", {})
        searcher.check()
        return searcher

    @property
    def embedder(self) -> ImageEmbedder:
        """What embeds the queries.

        Raises
        ------
        ConfigError
            When none was given, and the dataset does not record one that can be made again.
        """
        if self._embedder is None:
            from nemo_image_curate.embedders.registry import embedder_of

            self._embedder = embedder_of(self._recorded)
        return self._embedder

    def check(self) -> None:
        """Refuse vectors of another encoder than the queries'; every search does it.

        Raises
        ------
        EncoderMismatchError
        """
        if self._embedder is None:
            encoder = self._recorded.get("encoder")
        else:
            encoder = self._embedder.encoder()
        for searchable in self.searchables("images") + self.searchables("texts"):
            # Without an embedder, all vectors are of one all the same.
            encoder = encoder or searchable.encoder
            if searchable.encoder not in (None, encoder):
                raise EncoderMismatchError(
                    f"queries are vectors of {encoder!r}, but {type(searchable).__name__} holds "
                    f"vectors of {searchable.encoder!r}. Use the embedder that made them."
                )

    def searchables(self, over: str) -> list[Searchable]:
        """What a query over ``"images"`` or ``"texts"`` is answered from; none for no texts."""
        side = self.images if over == "images" else self.texts
        if side is None:
            return []
        return list(side) if isinstance(side, Sequence) else [side]

    def search(
        self,
        text: str | None = None,
        image: ImageInput | None = None,
        *,
        like: str | None = None,
        like_shard: str | None = None,
        negative_text: str | None = None,
        text_weight: float = 1.0,
        image_weight: float = 1.0,
        negative_weight: float = 0.5,
        k: int = 10,
        where: str | None = None,
        collapse: float | None = None,
        fuse_captions: bool = False,
        over: str = "images",
    ) -> list[Hit]:
        """The images (or captions) that fit best to a text, an image, or both.

        Parameters
        ----------
        text : str, optional
        image : path, bytes, data URL or PIL.Image.Image, optional
            Strings that begin with ``data:`` are data URLs, others paths.
        like : str, optional
            The key of a stored image ("more like this"); it is not among the answers itself.
        like_shard : str, optional
            Needed when several shards have that key.
        negative_text : str, optional
            What the images should not show.
        text_weight, image_weight, negative_weight : float
            Not below 0. The query is the direction of the weighted sum of the unit vectors of
            text and image (and `like`), less that of the negative.
        k : int, default 10
        where : str, optional
            Only rows for which this expression over the columns is true.
        collapse : float, optional
            Hide images whose cosine similarity to a better hit is at least this (0.95 say), and
            count them in its ``similar``.
        fuse_captions : bool, default False
            Fuse with a full-text search of the captions for `text`, by reciprocal rank.
        over : {"images", "texts"}
            What to search.

        Returns
        -------
        list of Hit
            The best first; at most `k`.

        Raises
        ------
        ConfigError
            For queries that cannot be used, and texts and images when there is no embedder.
        ImageError
            When the image cannot be decoded.
        DatasetError
            When there is no file of the image, or no stored image of the key `like`.
        EncoderMismatchError
            When what is searched was made with another encoder than the embedder's.
        """
        query = Query(
            text=text,
            image=image,
            like=like,
            like_shard=like_shard,
            negative_text=negative_text,
            text_weight=text_weight,
            image_weight=image_weight,
            negative_weight=negative_weight,
            k=k,
            where=where,
            collapse=collapse,
            fuse_captions=fuse_captions,
            over=over,
        )
        answers: list[list[Hit]] = self.search_many([query])
        return answers[0]

    def search_many(self, queries: Sequence[Query], return_errors: bool = False) -> list[Any]:
        """Answers to several queries, embedded and searched together.

        Parameters
        ----------
        queries : sequence of Query
        return_errors : bool, default False
            Give a query that cannot be answered its exception as answer, so that the others get
            theirs; else the first such exception is raised.

        Returns
        -------
        list of list of Hit
            What `search` gives for each, as far as the embedder gives the same vector to a text
            in a batch as alone: ConSE's scores differ by up to 2e-7.
        """
        try:
            return self._answers(queries)
        except CurateError as error:
            if not return_errors:
                raise
            if len(queries) == 1:
                return [error]
        return [self.search_many([query], return_errors=True)[0] for query in queries]

    def image_to_text(
        self,
        image: ImageInput,
        k: int = 10,
        where: str | None = None,
        collapse: float | None = None,
    ) -> list[Hit]:
        """The captions that fit best to an image: ``search(image=image, over="texts")``."""
        return self.search(image=image, k=k, where=where, collapse=collapse, over="texts")

    def similarity(self, texts: Sequence[str], images: Sequence[ImageInput]) -> np.ndarray:
        """Cosine similarities of texts with images; see the function `similarity`."""
        return similarity(self.embedder, texts, images, self.device)

    def _answers(self, queries: Sequence[Query]) -> list[list[Hit]]:
        self.check()
        jobs = [Job(query, self._searched(query), self.captions) for query in queries]
        self._embed(jobs)
        return answers(jobs)

    def _searched(self, query: Query) -> list[Searchable]:
        query.check()
        if query.fuse_captions and self.captions is None:
            raise ConfigError(
                "fuse_captions=True needs a full-text index of the captions: build_captions(ds)."
            )
        searchables = self.searchables(query.over)
        if query.over == "texts" and not searchables:
            raise ConfigError(
                "there are no text vectors to search. Embed the captions with an embedder that "
                "has a text tower, which adds a text_embedding column, and index that too."
            )
        return searchables

    def _embed(self, jobs: Sequence[Job]) -> None:
        """Give each job its vector, with one pass of each tower for all of them."""
        queries = [job.query for job in jobs]
        texts = [text for query in queries for text in (query.text, query.negative_text)]
        text_vectors = _once(texts, self._embed_texts)
        contents = [
            None if query.image is None else image_content(query.image) for query in queries
        ]
        image_vectors = _once(contents, self._embed_images)
        for job, content in zip(jobs, contents, strict=True):
            query = job.query
            parts: list[tuple[float, Any]] = []
            if query.text is not None:
                parts.append((query.text_weight, text_vectors[query.text]))
            if content is not None:
                parts.append((query.image_weight, image_vectors[content]))
            if query.like is not None:
                job.example = self._stored(query.like, query.like_shard)
                parts.append((query.image_weight, job.example.vector))
            if query.negative_text is not None:
                parts.append((-query.negative_weight, text_vectors[query.negative_text]))
            job.vector = direction(parts)

    def _embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return require_text_side(self.embedder).embed_text(list(texts), device=self.device)

    def _embed_images(self, images: Sequence[ImageInput]) -> np.ndarray:
        return embed_all_images(self.embedder, images, self.device)

    def _stored(self, key: str, shard: str | None) -> Hit:
        (hit,) = lookup(self.searchables("images"), [(shard, key)])
        if hit is None:
            where = f" in {shard}" if shard else ""
            raise DatasetError(f"there is no stored image of the key {key!r}{where}.")
        return hit


def _once(
    values: Sequence[Value | None], embed: Callable[[list[Value]], np.ndarray]
) -> dict[Value, np.ndarray]:
    """The vectors of texts or of images, each embedded once and all in one pass."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    return dict(zip(distinct, embed(distinct), strict=True)) if distinct else {}


def _load(dataset: ImageTextPairDataset, column: str) -> VectorIndex:
    path = index_path(dataset, column)
    if not storage.is_dir(path):
        raise DatasetError(
            f"{dataset.metadata_path} has no index of {column}. Make one first: "
            f"nemo-image-curate index {dataset.metadata_path}"
        )
    return VectorIndex.load(path, dataset)
