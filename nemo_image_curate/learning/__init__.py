"""Learn from a dataset's own pairs: contrastive losses, and what is trained with them."""

from nemo_image_curate import catalog

__getattr__, __dir__, __all__ = catalog.lazy_names(
    __name__,
    info_nce="learning.losses",
    siglip="learning.losses",
)
