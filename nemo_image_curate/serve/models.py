"""What requests and answers look like, with their limits and examples."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nemo_image_curate.search.query import (
    COLLAPSE_ABOVE,
    COLLAPSE_UP_TO,
    MIN_K,
    MIN_WEIGHT,
    Query,
)

MAX_K = 1000
MAX_ITEMS = 100  # texts or images of one request
MAX_FIELDS = 50  # of one object in a request
# Characters; a tokenizer's own limit is lower and has its own message.
MAX_TEXT = 4000

MAX_KEY = 500

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, examples=["a dog on the beach"])]
Key = Annotated[str, Field(min_length=1, max_length=MAX_KEY, examples=["000000012"])]
Weight = Annotated[float, Field(ge=MIN_WEIGHT, le=1000, allow_inf_nan=False)]


def _few_fields(fields: Any) -> Any:
    # Each wrong one is an error of its own: to tell of a million took a minute.
    if isinstance(fields, dict) and len(fields) > MAX_FIELDS:
        raise ValueError(f"{len(fields)} fields, where no more than {MAX_FIELDS} are taken")
    return fields


Metadata = Annotated[
    dict[str, str | int | float | bool],
    BeforeValidator(_few_fields),
    Field(max_length=MAX_FIELDS, examples=[{"photographer": "Ada"}]),
]


class StrictModel(BaseModel):
    """What the schema does not allow is refused, not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    _few = model_validator(mode="before")(_few_fields)


class ImageData(StrictModel):
    """An image in the request itself."""

    data: str = Field(
        min_length=1,
        description="The encoded file (JPEG, PNG, ...) as base64, or as a base64 data URL.",
        examples=["data:image/png;base64,iVBORw0KGgo..."],
    )


class ImagePath(StrictModel):
    """A file of the machine that the service runs on, below one of its configured roots."""

    path: str = Field(min_length=1, max_length=4096, examples=["/data/photos/dog.jpg"])


class ImageKey(StrictModel):
    """An image that is indexed already."""

    key: Key
    shard: str | None = Field(
        None,
        max_length=4096,
        description="Needed when several shards have this key.",
        examples=["00000.tar"],
    )


ImageInput = ImageData | ImagePath | ImageKey


class _Options(StrictModel):
    k: int = Field(Query.k, ge=MIN_K, le=MAX_K, description="At most so many hits.")
    where: str | None = Field(
        None,
        max_length=MAX_TEXT,
        description="Only rows for which this expression over the columns is true.",
        examples=["width >= 256"],
    )
    collapse: float | None = Field(
        None,
        gt=COLLAPSE_ABOVE,
        le=COLLAPSE_UP_TO,
        allow_inf_nan=False,
        description="Hide hits whose cosine similarity to a better one is at least this.",
        examples=[0.95],
    )


class _Negative(_Options):
    negative_text: Text | None = Field(
        None, description="What the images should not show.", examples=["people"]
    )
    negative_weight: Weight = Query.negative_weight


class TextQuery(_Negative):
    """Images for a text."""

    text: Text
    fuse_captions: bool = Field(
        False, description="Fuse with a full-text search of the captions, by reciprocal rank."
    )


class ImageQuery(_Negative):
    """Images like an image."""

    image: ImageInput


class CaptionQuery(_Options):
    """Captions for an image."""

    image: ImageInput


class HybridQuery(_Negative):
    """Images for the weighted sum of a text and an image; either may be left out."""

    text: Text | None = None
    image: ImageInput | None = None
    text_weight: Weight = Query.text_weight
    image_weight: Weight = Query.image_weight
    fuse_captions: bool = False


class SimilarityQuery(StrictModel):
    """Texts to be compared with images."""

    texts: list[Text] = Field(min_length=1, max_length=MAX_ITEMS)
    images: list[ImageInput] = Field(min_length=1, max_length=MAX_ITEMS)


class NewImage(StrictModel):
    """An image to add."""

    image: ImageData | ImagePath
    key: Key | None = Field(None, description="Default: the SHA-256 of the file.")
    caption: str | None = Field(None, max_length=MAX_TEXT, examples=["a dog on the beach"])
    metadata: Metadata | None = Field(None, description="Further columns.")


class NewImages(StrictModel):
    """Images to add, sent as base64 or read from the service's machine."""

    images: list[NewImage] = Field(min_length=1, max_length=MAX_ITEMS)


class Uploads(BaseModel):
    """Images to add, as files of a form; captions and keys in the order of the files."""

    files: list[Annotated[str, Field(json_schema_extra={"format": "binary"})]] = Field(
        min_length=1, max_length=MAX_ITEMS
    )
    captions: list[Annotated[str, Field(max_length=MAX_TEXT)]] = Field(
        [], max_length=MAX_ITEMS, description="None at all, or one for each file; may be empty."
    )
    keys: list[Key] = Field([], max_length=MAX_ITEMS, description="None, or one for each file.")


class NewText(StrictModel):
    """A text, such as a caption, to add."""

    text: Text
    key: Key | None = Field(None, description="Default: the SHA-256 of the text.")
    metadata: Metadata | None = Field(None, description="Further columns.")


class NewTexts(StrictModel):
    """Texts to add."""

    texts: list[NewText | Text] = Field(min_length=1, max_length=MAX_ITEMS)


class HitAnswer(BaseModel):
    """One image, or one caption, that was found."""

    key: str
    shard: str | None = Field(description="The tar that holds it; null in the live store.")
    score: float = Field(description="Cosine similarity; after fusion the fused score.")
    caption: str | None
    metadata: dict[str, Any]
    similar: int = Field(description="Near-duplicates of it that `collapse` hid.")
    url: str | None = Field(
        description="The original image, on this service; with `size=256` beside its other "
        "parameters, a thumbnail."
    )


class Hits(BaseModel):
    """What was found, the best first."""

    hits: list[HitAnswer]


class Similarities(BaseModel):
    """Cosine similarities: a row for each text, a column for each image."""

    similarities: list[list[float]]


class Added(BaseModel):
    """What became of one item."""

    key: str
    error: str | None = Field(description="Why it was not added; null when it was.")


class AddedItems(BaseModel):
    """What became of each item."""

    added: int = Field(description="Different ones.")
    failed: int = Field(description="Different ones.")
    indexed: int = Field(description="Items of the request that are in the store now.")
    items: list[Added] = Field(description="In the order of the request.")


class Health(BaseModel):
    """The service is ready."""

    status: str = "ready"


class Latency(BaseModel):
    """How long the last requests of one kind took, in milliseconds."""

    requests: int = Field(description="Since the start.")
    p50_ms: float
    p90_ms: float
    p99_ms: float


class Stats(BaseModel):
    """What is served, and how it went so far."""

    version: str
    encoder: str | None
    model: str = Field(description="As its library names it; `encoder` says it to the last weight.")
    embedding_dim: int | None = Field(description="Values of a vector; null until one is made.")
    images_indexed: int = Field(description="As `images`.")
    texts_indexed: int = Field(description="As `texts`.")
    images: int = Field(description="That can be searched, with those of the live store.")
    texts: int
    captions: int | None = Field(
        description="Whose words `fuse_captions` searches; null when there is no such index."
    )
    columns: list[str] = Field(description="Of the dataset, for `where`.")
    store_images: int | None = Field(description="In the live store; null when there is none.")
    store_texts: int | None
    indexes: list[dict[str, Any]] = Field(description="The recipe of each index.")
    uptime_s: float
    requests: dict[str, int] = Field(description="Since the start, by status.")
    latency: dict[str, Latency] = Field(description="By method and path.")
    batch_sizes: dict[str, int] = Field(description="How many of the last batches had this size.")


class Problem(BaseModel):
    """What is wrong, as RFC 9457 has it."""

    type: str = Field(examples=["urn:nemo-image-curate:ColumnNotFoundError"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["no column 'widht'. Did you mean 'width'? Columns: width"])
    errors: list[dict[str, Any]] | None = Field(
        None, description="For a request of the wrong form: where (loc) and what (msg)."
    )
