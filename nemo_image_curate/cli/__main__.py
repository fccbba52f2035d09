"""``python -m nemo_image_curate.cli``."""

from nemo_image_curate.cli import main

main()
