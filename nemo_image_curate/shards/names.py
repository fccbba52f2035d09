"""What shards, the files of one, members and samples are called."""

from __future__ import annotations

from dataclasses import dataclass

# Digits of a shard's number.
SHARD_DIGITS = 5
# The column of every frame that says in which tar a row's members are.
SHARD_COLUMN = "shard"
# Why a row's image gave nothing; null where all is well.
ERROR_COLUMN = "image_error"
# Tars, also packed ones.
TAR_ENDINGS = (
    *(".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"),
    *(".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz"),
)
# What follows ``.tar`` in names of downloads that are not finished, and of packings not read here.
UNREAD_ENDINGS = (
    *(".part", ".partial", ".tmp", ".temp", ".incomplete", ".crdownload", ".download", ".aria2"),
    *(".filepart", ".lz4", ".lzma", ".lz", ".lzo", ".br", ".z", ".zip"),
)
_ENDINGS = (*TAR_ENDINGS, ".parquet", ".idx")


@dataclass(frozen=True)
class ShardFiles:
    """A tar, its sidecar of metadata, and its ``wds2idx`` index of members.

    Parameters
    ----------
    stem : str
        What they are called without their endings.
    """

    stem: str

    @classmethod
    def beside(cls, location: str) -> ShardFiles:
        """The files of the shard that one of them, at `location`, is of."""
        ending = next((ending for ending in _ENDINGS if location.lower().endswith(ending)), "")
        return cls(location[: len(location) - len(ending)])

    @property
    def tar(self) -> str:
        """The tar that we write."""
        return f"{self.stem}.tar"

    @property
    def sidecar(self) -> str:
        """The Parquet file with a row for each sample."""
        return f"{self.stem}.parquet"

    @property
    def index(self) -> str:
        """Where the members lie in the tar."""
        return f"{self.stem}.idx"


def shard_name(number: int, digits: int = SHARD_DIGITS) -> str:
    """The name of a shard that we write, without ending."""
    return f"{number:0{digits}d}"


def sample_key(shard: str, row: int, samples_per_shard: int) -> str:
    """The key of a sample: the shard's name, then its row with a fixed number of digits."""
    return f"{shard}{row:0{len(str(samples_per_shard - 1))}d}"


def normal_name(name: str) -> str:
    """A member's name without ``./`` and with single slashes, as tar would extract it."""
    if "./" not in name and "//" not in name:
        return name
    parts = name.split("/")
    last = len(parts) - 1
    kept = [
        part for number, part in enumerate(parts) if part != "." and (part or number in (0, last))
    ]
    return "/".join(kept)


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member's name, or None when it belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (folder + slash + stem, extension) if stem and dot else None


def member_name(key: str, extension: str) -> str:
    """The name of a sample's member; the opposite of `split_name`."""
    return f"{key}.{extension}" if extension else key
