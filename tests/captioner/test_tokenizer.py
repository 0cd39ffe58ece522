import pytest
from tokenizers import Tokenizer, models

from captioner.tokenizer import WordTokenizer


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer.train(["a red circle", "there are two: a red star, a blue one."])


class TestWordTokenizer:
    def test_text_comes_back_in_lower_case(self, tokenizer):
        numbers = tokenizer.encode(["There are TWO: a red star, a blue one."])[0]
        words = [tokenizer.word(number) for number in numbers]
        assert tokenizer.text(words) == "there are two: a red star, a blue one."

    def test_an_unknown_word_is_said_to_be_one(self, tokenizer):
        words = [tokenizer.word(number) for number in tokenizer.encode(["a zebra"])[0]]
        assert words == ["a", "<unknown>"]

    def test_start_end_and_padding_are_no_text(self, tokenizer):
        assert tokenizer.text(["<start>", "a", "star", "<end>", "<pad>"]) == "a star"

    def test_words_and_phrases_as_sequences(self, tokenizer):
        star, two_words = tokenizer.sequences(["star", "Red circle"])
        assert [tokenizer.word(number) for number in star] == ["star"]
        assert [tokenizer.word(number) for number in two_words] == ["red", "circle"]
        assert tokenizer.sequences(["zebra", "red zebra", "", "<end>", "star <pad>"]) == ()

    def test_json_round_trip(self, tokenizer):
        again = WordTokenizer.from_json(tokenizer.to_json())
        assert again.to_json() == tokenizer.to_json()
        assert again.encode(["a blue star"]) == tokenizer.encode(["a blue star"])

    def test_numbers_with_gaps_are_refused(self):
        words = {"<pad>": 0, "<start>": 1_000_000, "<end>": 2, "<unknown>": 3}
        gaps = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
        with pytest.raises(ValueError, match="4 tokens, up to 1000000, have gaps"):
            WordTokenizer(gaps)

    def test_a_tokenizer_without_special_tokens_is_refused(self):
        bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        with pytest.raises(ValueError, match="<pad>"):
            WordTokenizer(bare)
