import pytest

from captioner.contract import DecodingConfig, ModelLoadError
from captioner.huggingface import load


class TestDecodingConfig:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"strategy": "beem"}, "strategy is 'beem'; use one of greedy, beam, sample"),
            ({"precision": "int8"}, "precision is 'int8'; use one of float32"),
            ({"max_length": 0}, "max_length is 0; use 1 to 1024"),
            ({"beam_size": 65}, "beam_size is 65; use 1 to 64"),
            ({"length_penalty": -0.1}, "length_penalty is -0.1"),
            ({"temperature": 0.0}, "temperature is 0.0"),
            ({"temperature": float("nan")}, "temperature is nan"),
            ({"top_p": 1.5}, "top_p is 1.5"),
            ({"beam_size": 2.5}, "beam_size is 2.5"),
            ({"min_length": "3"}, "min_length is '3'"),
            ({"forbidden_words": "red"}, "forbidden_words is 'red'; use several words"),
            ({"forbidden_words": ("red", " ")}, "none of them empty"),
            ({"language": "<start>"}, "language is '<start>'; use a short name such as zh"),
            ({"language": "zh "}, "language is 'zh '"),
            ({"language": "chinese-simplified"}, "language is 'chinese-simplified'"),
            ({"min_length": 9, "max_length": 9}, r"min_length \(9\) must be less than max_length"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, changes, message):
        with pytest.raises(ValueError, match=message):
            DecodingConfig(**changes)

    def test_what_changes_captions_changes_the_id(self):
        ids = {
            DecodingConfig(**changes).id
            for changes in (
                {},
                {"max_length": 59},
                {"min_length": 1},
                {"draft": True},
                {"precision": "bfloat16"},
                {"no_repeat_ngram": 3},
                {"forbidden_words": ("dog",)},
                {"language": "zh"},
                {"language": "zh-Hans"},
                {"strategy": "beam"},
                {"strategy": "beam", "beam_size": 4},
                {"strategy": "beam", "length_penalty": 0.0},
                {"strategy": "sample"},
                {"strategy": "sample", "seed": 1},
                {"strategy": "sample", "temperature": 0.5},
                {"strategy": "sample", "top_k": 5},
                {"strategy": "sample", "top_p": 0.5},
            )
        }
        assert len(ids) == 17

    def test_what_changes_no_caption_changes_no_id(self):
        plain = DecodingConfig().id
        assert DecodingConfig(beam_size=9, length_penalty=2.0, top_k=5, seed=3).id == plain
        assert DecodingConfig(language="").id == plain
        beam = DecodingConfig(strategy="beam")
        assert DecodingConfig(strategy="beam", length_penalty=1).id == (
            DecodingConfig(strategy="beam", length_penalty=1.0).id
        )
        one, other = (
            DecodingConfig(forbidden_words=words) for words in (("b", "a"), ("a", "b", "a"))
        )
        assert one.id == other.id
        assert DecodingConfig(strategy="beam", temperature=2.0).id == beam.id

    def test_ids_of_what_people_have_in_their_outputs_stay(self):
        """An id that changes lets every image be captioned anew."""
        assert DecodingConfig().id == "44136fa355b3"
        assert DecodingConfig(precision="bfloat16", draft=True).id == "600ff7bd9458"

    def test_a_model_that_does_not_heed_the_language_refuses_it(self):
        with pytest.raises(ModelLoadError, match="leave --language out"):
            load("no/such-model", "cpu", DecodingConfig(language="zh"))
