"""What shards, the files of one, and samples are called."""

from __future__ import annotations

from dataclasses import dataclass

# Digits of a shard's number.
SHARD_DIGITS = 5
_ENDINGS = (".tar", ".parquet", ".idx")


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
        ending = next((one for one in _ENDINGS if location.lower().endswith(one)), "")
        return cls(location[: len(location) - len(ending)])

    @property
    def tar(self) -> str:
        """The tar."""
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
