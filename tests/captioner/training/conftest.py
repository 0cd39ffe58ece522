import pytest
import torch

from captioner.scenes import TRAINING
from captioner.tokenizer import CaptionTokenizer
from captioner.training.scenes import SceneData, render_scenes, scene_tokenizer

SCENES = 96


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads wait for each other longer than a model this small computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> CaptionTokenizer:
    return scene_tokenizer(TRAINING, 300)


@pytest.fixture(scope="session")
def data(tokenizer) -> SceneData:
    return render_scenes(TRAINING, SCENES, image_size=32, tokenizer=tokenizer, workers=1)
