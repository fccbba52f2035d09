"""The kinds of index, one file each; `table` lists them."""
