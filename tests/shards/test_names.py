from nemo_image_curate.shards.names import ShardFiles


def test_the_files_of_a_shard_are_beside_each_other():
    files = ShardFiles("a/b.c")
    assert (files.tar, files.sidecar, files.index) == ("a/b.c.tar", "a/b.c.parquet", "a/b.c.idx")
    for location in ("a/b.c.tar", "a/b.c.TAR", "a/b.c.parquet", "a/b.c.idx", "a/b.c"):
        assert ShardFiles.beside(location) == files
    assert ShardFiles.beside("s3://b/00000.tar").index == "s3://b/00000.idx"
