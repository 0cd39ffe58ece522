"""Image-to-text models of Hugging Face ``transformers``, as captioners."""

from captioner.contract import Captioner, DecodingConfig


def load(name_or_path: str, device: str, decoding: DecodingConfig) -> Captioner:
    """Load an image-to-text model from the Hub or a folder.

    Raises:
        ModelLoadError: if it cannot be loaded.
    """
    raise NotImplementedError
