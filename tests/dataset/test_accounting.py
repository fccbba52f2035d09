"""Accounts close, whatever is wrong between tars and sidecars."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_image_curate import ImageStatistics, ImageTextPairDataset
from nemo_image_curate.dataset.accounting import Account, total
from nemo_image_curate.storage import write_bytes
from tests.make_data import jpeg, make_dataset, write_sidecar, write_tar


def closes(account: Account) -> None:
    if account.samples_in_tars is not None:
        assert account.samples_in_tars == account.with_row + account.without_row
    assert account.rows_in_sidecars == account.with_image + account.without_image


def opened(path, **options) -> ImageTextPairDataset:
    return ImageTextPairDataset.from_webdataset(path, backend="cpu", **options)


@pytest.mark.parametrize("sidecars", [True, False])
def test_a_whole_dataset(tmp_path, sidecars):
    make_dataset(tmp_path, [3, 0, 2], sidecars=sidecars)
    account = opened(tmp_path).account()
    assert account == Account(5, 5, 5, 0, 5, 0)


NAMES = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), unique=True, max_size=5)


@settings(max_examples=25)
@given(images=NAMES, texts=NAMES, rows=st.lists(st.sampled_from(["a", "b", "c", "x"]), max_size=6))
def test_sums_close(tmp_path_factory, images, texts, rows):
    root = tmp_path_factory.mktemp("sums")
    members = [(f"{key}.jpg", jpeg(1)) for key in images] + [(f"{key}.txt", b"t") for key in texts]
    write_tar(root / "0.tar", members)
    write_sidecar(root / "0.parquet", {"key": rows} if rows else {"key": ["x"]})
    rows = rows or ["x"]
    account = opened(root).account()
    closes(account)
    samples = set(images) | set(texts)
    assert account.samples_in_tars == len(samples)
    assert account.without_row == len(samples - set(rows))
    assert account.rows_in_sidecars == len(rows)
    assert account.with_image == sum(key in images for key in rows)


def test_no_key_matches(tmp_path):
    write_tar(tmp_path / "0.tar", [(f"{number:09d}.jpg", jpeg(number)) for number in range(3)])
    write_sidecar(tmp_path / "0.parquet", {"key": ["0", "1", "2"]})
    account = opened(tmp_path).account()
    closes(account)
    assert account.faults == {"missing": 3, "no match": 1, "no row": 3}
    assert account.named[0]["detail"].startswith(
        "no key of 0.parquet is in 0.tar: there the first is '000000000', here '0'"
    )


def test_rows_that_were_not_downloaded_are_no_faults(tmp_path):
    write_tar(tmp_path / "in/0.tar", [("a.jpg", jpeg(1)), ("d.jpg", jpeg(2))])
    status = {
        "a": "success",
        "b": "success",
        "c": "failed_to_download",
        # It is there all the same.
        "d": "failed_to_resize",
        "e": None,
        "f": "failed_to_resize",
    }
    columns = {"key": list(status), "status": list(status.values())}
    write_sidecar(tmp_path / "in/0.parquet", columns)
    dataset = opened(tmp_path / "in")
    account = dataset.account()
    closes(account)
    assert (account.with_image, account.without_image, account.not_downloaded) == (2, 4, 2)
    assert account.faults == {"missing": 2}
    assert [fault["key"] for fault in account.named] == ["b", "e"]
    assert dataset.save_metadata(tmp_path / "out").account() == account
    # Of a file of many shards, too.
    write_tar(tmp_path / "in/1.tar", [("g.jpg", jpeg(3))])
    columns = {"key": ["g", "h"], "status": ["success", "failed_to_download"]}
    write_sidecar(tmp_path / "in/1.parquet", columns)
    both = opened(tmp_path / "in")
    both = both.replace(both.metadata.repartition(npartitions=1)).save_metadata(tmp_path / "both")
    account = both.account()
    closes(account)
    assert (account.not_downloaded, account.faults) == (3, {"missing": 2})


def test_a_shard_of_which_nothing_was_downloaded_has_no_faults(tmp_path):
    write_tar(tmp_path / "0.tar", [])
    columns = {"key": ["a", "b"], "status": ["failed_to_download"] * 2}
    write_sidecar(tmp_path / "0.parquet", columns)
    assert opened(tmp_path).account() == Account(2, 0, 0, 0, 0, 2, not_downloaded=2)


def test_accounts_of_earlier_releases_are_taken():
    record = dataclasses.asdict(Account(3, 2, 2, 0, 2, 1, {"missing": 1}))
    del record["not_downloaded"]
    assert Account.from_record(record) == Account(3, 2, 2, 0, 2, 1, {"missing": 1})


def test_a_tar_that_is_no_tar(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"<html>" * 1000)
    write_sidecar(tmp_path / "0.parquet", {"key": ["0", "1"]})
    account = opened(tmp_path).account()
    closes(account)
    assert account.rows_in_sidecars == account.without_image == 2
    assert account.faults["corrupt"] == 1


def test_a_save_that_read_the_images_records_it(tmp_path):
    make_dataset(tmp_path / "in", [3, 2], sidecars=False)
    saved = ImageStatistics()(opened(tmp_path / "in")).save_metadata(tmp_path / "out")
    sources = saved.source()[1]
    assert [source.account["samples_in_tars"] for source in sources] == [3, 2]
    assert saved.account() == Account(5, 5, 5, 0, 5, 0)
    # It is of these tars as they are.
    with (tmp_path / "in/00000.tar").open("r+b") as tar:
        tar.truncate(3000)
    again = opened(tmp_path / "out")
    assert again.source()[1][0].account is None
    assert again.account().faults["truncated"] == 1


def test_other_rows_are_counted_anew(tmp_path):
    make_dataset(tmp_path / "in", [3], sidecars=False)
    saved = ImageStatistics()(opened(tmp_path / "in")).save_metadata(tmp_path / "out")
    fewer = saved.filter(f"key == '{saved.head()['key'][0]}'").save_metadata(tmp_path / "one")
    account = fewer.account()
    assert (account.rows_in_sidecars, account.samples_in_tars, account.without_row) == (1, 3, 2)


def test_tars_far_away_are_not_read_for_it(bucket, tmp_path):
    import fsspec

    root = bucket()
    make_dataset(tmp_path, [2])
    fsspec.filesystem("s3").put(f"{tmp_path}/", f"{root}/", recursive=True)
    account = opened(root).account()
    assert account == Account(2, None, None, None, None, None, not_downloaded=None)
    assert ImageStatistics()(opened(root)).save_metadata(tmp_path / "o").account() == Account(
        2, 2, 2, 0, 2, 0
    )


def test_a_total_names_the_first_of_each_kind():
    accounts = [
        Account(1, 1, 0, 1, 0, 1, {"missing": 1}, [{"kind": "missing", "key": str(number)}])
        for number in range(20)
    ]
    whole = total(accounts)
    assert whole.faults == {"missing": 20}
    assert [fault["key"] for fault in whole.named] == list(map(str, range(10)))
    assert len(total(accounts, None).named) == 20


def test_a_tar_that_grew_is_read_again(tmp_path, caplog):
    tar = write_tar(tmp_path / "0.tar", [(f"{number}.jpg", jpeg(number)) for number in range(5)])
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    saved = ImageStatistics()(opened(tmp_path)).save_metadata()
    assert 0 < len(saved) < 5
    assert saved.account().faults["truncated"] == 1
    tar.write_bytes(whole)
    again = opened(tmp_path)
    assert len(again) == 5
    assert "was made of 0.tar when that had another size" in caplog.text
    saved = ImageStatistics()(again).save_metadata()
    assert saved.metadata.width.compute().notna().all()
    assert saved.account() == Account(5, 5, 5, 0, 5, 0)


def test_a_tar_that_grew_within_its_padding_is_read_again(tmp_path, caplog):
    tar = write_tar(tmp_path / "0.tar", [(f"{number}.jpg", jpeg(number)) for number in range(2)])
    size = tar.stat().st_size
    ImageStatistics()(opened(tmp_path)).save_metadata()
    write_tar(tar, [(f"{number}.jpg", jpeg(number)) for number in range(4)])
    assert tar.stat().st_size == size
    saved = ImageStatistics()(opened(tmp_path)).save_metadata()
    assert "0.parquet was made of 0.tar when that had another size or other samples" in caplog.text
    assert saved.metadata.width.count().compute() == 4
    assert saved.account() == Account(4, 4, 4, 0, 4, 0)


@pytest.mark.parametrize("then", [2, 4])
def test_the_account_of_a_tar_that_changed_is_taken_again(tmp_path, then):
    keys = list("abcd")
    tar = write_tar(tmp_path / "0.tar", [(f"{key}.jpg", jpeg(1)) for key in keys[:then]])
    write_sidecar(tmp_path / "0.parquet", {"key": keys[:then]})
    size = tar.stat().st_size
    ImageStatistics()(opened(tmp_path)).save_metadata(tmp_path / "scored")
    now = 6 - then
    write_tar(tar, [(f"{key}.jpg", jpeg(1)) for key in keys[:now]])
    assert tar.stat().st_size == size
    account = opened(tmp_path / "scored").account()
    closes(account)
    assert account.faults == ({"no row": 2} if now > then else {"missing": 2})


def test_a_copy_keeps_what_was_computed(tmp_path):
    members = [(f"{number}.jpg", jpeg(number)) for number in range(3)]
    tar = write_tar(tmp_path / "0.tar", members)
    saved = ImageStatistics()(opened(tmp_path)).save_metadata()
    tar.write_bytes(tar.read_bytes())
    again = opened(tmp_path)
    assert "width" in again.metadata.columns
    assert again.account() == saved.account()
    kept = saved.filter("key != '1'").save_metadata()
    tar.write_bytes(tar.read_bytes())
    assert len(opened(tmp_path)) == len(kept) == 2


def test_remote_tars_without_sidecars_are_counted(tmp_path, bucket):
    root = bucket()
    members = [("a.jpg", jpeg(1)), ("b.jpg", jpeg(2)), ("b.json", b"[]")]
    write_bytes(f"{root}/0.tar", write_tar(tmp_path / "0.tar", members).read_bytes())
    dataset = opened(root)
    account = dataset.account()
    closes(account)
    assert account.counts() == Account(2, 2, 2, 0, 2, 0, {"json": 1}).counts()
    done = dataset.filter("key != 'a'").to_webdataset(str(tmp_path / "out"))
    assert done.samples + done.filtered + done.missing == account.rows_in_sidecars
