"""Luma: how bright a picture looks, from its red, green and blue."""

# Weights of ITU-R BT.601 in thousandths, as JPEG uses them: whole numbers, for exact sums.
LUMA_THOUSANDTHS = (299, 587, 114)
