"""Image-to-text models of Hugging Face ``transformers``, as captioners."""

from captioner.huggingface.captioner import HuggingFaceCaptioner
from captioner.huggingface.loading import load
from captioner.huggingface.view import View

__all__ = ["HuggingFaceCaptioner", "View", "load"]
