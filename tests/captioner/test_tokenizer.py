import json
import pickle
import re
import unicodedata

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from captioner.checkpoint import embedded_path
from captioner.tokenizer import CJK, CaptionTokenizer, readable, words

MIXED = "一个大的Red圆形，在iPhone 15的左边。 A dog's T-shirt: 한국어 문장 カタカナー!"


def spelt(tokenizer, caption):
    return [tokenizer.word(number) for number in tokenizer.encode([caption])[0]]


def said_again(tokenizer, caption):
    return tokenizer.text(spelt(tokenizer, caption))


@pytest.fixture
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer.train(["a red circle", "there are two: a red star, a blue one."])


@pytest.fixture
def byte_pairs() -> CaptionTokenizer:
    captions = ["a red dog and a red cat", "A red dog", "两个红色的圆形"]
    return CaptionTokenizer.train(captions, "byte_pair", vocabulary_size=290)


def pretrained() -> Tokenizer:
    """Make what GPT-2's tokenizer.json holds, only smaller."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the red dog saw the red cat"] * 3, trainer)
    return made


class TestWords:
    def test_text_comes_back_in_lower_case(self, tokenizer):
        caption = "There are TWO: a red star, a blue one."
        assert said_again(tokenizer, caption) == "there are two: a red star, a blue one."

    def test_the_special_tokens_come_first(self, tokenizer):
        assert (tokenizer.pad, tokenizer.start, tokenizer.end, tokenizer.unknown) == (0, 1, 2, 3)
        assert tokenizer.word(3) == "<unknown>"
        assert tokenizer.whole_words

    def test_an_unknown_word_is_said_to_be_one(self, tokenizer):
        assert spelt(tokenizer, "a zebra") == ["a", "<unknown>"]
        assert said_again(tokenizer, "a zebra") == "a <unknown>"

    def test_start_end_and_padding_are_no_text(self, tokenizer):
        assert tokenizer.text(["<start>", "a", "star", "<end>", "<pad>"]) == "a star"

    def test_what_looks_like_a_special_token_is_text(self, tokenizer):
        numbers = tokenizer.encode(["a <end> star <pad>"])[0]
        assert not {tokenizer.end, tokenizer.pad} & set(numbers)

    def test_words_and_phrases_as_sequences(self, tokenizer):
        star, two_words = tokenizer.sequences(["star", "Red circle"])
        assert [tokenizer.word(number) for number in star] == ["star"]
        assert [tokenizer.word(number) for number in two_words] == ["red", "circle"]
        assert tokenizer.sequences(["zebra", "red zebra", "", "<end>", "star <pad>"]) == ()

    def test_json_round_trip(self, tokenizer):
        again = CaptionTokenizer.from_json(tokenizer.to_json())
        assert again.to_json() == tokenizer.to_json()
        assert again.encode(["a blue star"]) == tokenizer.encode(["a blue star"])

    def test_a_worker_gets_the_same_tokenizer(self, tokenizer):
        again = pickle.loads(pickle.dumps(tokenizer))
        assert again.encode(["a <end> star"]) == tokenizer.encode(["a <end> star"])

    def test_scripts_without_spaces_are_split_by_character_and_joined(self):
        tokenizer = CaptionTokenizer.train([MIXED])
        again = CaptionTokenizer.from_json(tokenizer.to_json())
        expected = (
            "一 个 大 的 red 圆 形 ， 在 iphone 15 的 左 边 。 "
            "a dog's t-shirt : 한국어 문장 カ タ カ ナ ー !"
        )
        assert spelt(again, MIXED) == expected.split()
        assert said_again(again, MIXED) == (
            "一个大的red圆形，在iphone 15的左边。a dog's t-shirt: 한국어 문장カタカナー!"
        )

    def test_the_same_word_written_otherwise_is_the_same_word(self):
        tokenizer = CaptionTokenizer.train(["un caf\u00e9"])
        assert spelt(tokenizer, "UN CAFE\u0301") == ["un", "caf\u00e9"]

    def test_vowel_signs_and_joiners_are_parts_of_words(self):
        text = "हिन्दी می\u200cشود"
        assert spelt(CaptionTokenizer.train([text]), text) == text.split()

    def test_quotes_and_dashes_are_no_parts_of_words(self):
        tokenizer = CaptionTokenizer.train(["a sign: 'stop' - go"])
        assert spelt(tokenizer, "'stop' - go") == ["'", "stop", "'", "-", "go"]

    def test_punctuation_can_be_dropped(self):
        caption = "A man's T-shirt, $5 -- \u201cred\u201d; 一个，圆形。"
        tokenizer = CaptionTokenizer.train([caption], punctuation=False)
        expected = "a man s t shirt 5 red 一 个 圆 形".split()
        assert spelt(CaptionTokenizer.from_json(tokenizer.to_json()), caption) == expected
        assert words(caption) == expected

    def test_rare_words_are_left_out(self):
        captions = ["a dog", "a dog", "a cat"]
        assert spelt(CaptionTokenizer.train(captions, min_frequency=2), "a cat dog") == [
            "a",
            "<unknown>",
            "dog",
        ]
        assert len(CaptionTokenizer.train(captions, vocabulary_size=5)) == 5

    def test_words_of_other_captions_come_behind(self, tokenizer):
        known = [tokenizer.word(number) for number in range(len(tokenizer))]
        extended = tokenizer.extended(["A Kayak!", "a kayak, two kayaks", "<end> of a star"])
        words = [extended.word(number) for number in range(len(extended))]
        assert words[: len(known)] == known
        assert words[len(known) :][0] == "kayak"
        assert {"kayaks", "!", "of"} <= set(words[len(known) :])
        assert len(set(words)) == len(words)
        assert said_again(extended, "A red kayak") == "a red kayak"
        assert spelt(extended, "<end>") != ["<end>"]
        assert len(tokenizer) == len(known)
        assert len(tokenizer.extended(["a kayak, two kayaks, a kayak"], 2)) == len(known) + 1

    def test_byte_pairs_know_every_word(self, byte_pairs):
        assert byte_pairs.extended(["a kayak"]) is byte_pairs

    def test_more_words_than_the_library_keeps_by_itself(self):
        assert len(CaptionTokenizer.train(f"w{number}" for number in range(31_000))) == 31_004

    def test_unicode_names_the_same_characters(self):
        alone = re.compile(
            "CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH-|(HALFWIDTH )?KATAKANA LETTER|HIRAGANA LETTER"
        )
        spaced = re.compile("LATIN|CYRILLIC|HANGUL|THAI|FULLWIDTH|DIGIT")
        for number in (*range(0x1AFF0), *range(0x20000, 0x32400)):
            name = unicodedata.name(chr(number), "")
            if alone.match(name) or spaced.match(name):
                assert bool(re.match(f"[{CJK}]", chr(number))) == bool(alone.match(name)), name


class TestTheEmbeddedModelsWords:
    def test_they_load_and_behave_as_they_did(self):
        with open(f"{embedded_path()}/tokenizer.json", encoding="utf-8") as file:
            saved = file.read()
        tokenizer = CaptionTokenizer.from_json(saved)
        assert tokenizer.to_json() + "\n" == saved
        vocabulary = json.loads(saved)["model"]["vocab"]
        caption = "There is also a large RED circle, below a small one."
        expected = "there is also a large red circle <unknown> below a small <unknown> <unknown>"
        numbers = tokenizer.encode([caption])[0]
        assert numbers == [vocabulary[word] for word in expected.split()]
        assert said_again(tokenizer, caption) == expected

    def test_they_are_english_and_chinese(self):
        with open(f"{embedded_path()}/tokenizer.json", encoding="utf-8") as file:
            tokenizer = CaptionTokenizer.from_json(file.read())
        assert tokenizer.languages == ("en", "zh")
        assert tokenizer.start_of("") == tokenizer.start_of("en") == tokenizer.start
        assert tokenizer.start_of("zh") != tokenizer.start
        assert said_again(tokenizer, "红色圆形") == "红色圆形"


def test_words_of_one_language_need_no_name():
    made = CaptionTokenizer.train(["a red star"])
    tokenizer = CaptionTokenizer.from_json(made.to_json())
    assert tokenizer.languages == ()
    assert tokenizer.start_of("") == tokenizer.start == 1
    with pytest.raises(ValueError, match="language is 'en'; the only .* no name; leave it out"):
        tokenizer.start_of("en")


@pytest.mark.parametrize("kind", ["word", "byte_pair"])
class TestLanguages:
    @pytest.fixture
    def bilingual(self, kind) -> CaptionTokenizer:
        made = CaptionTokenizer.train(["a red star", "红色星形"], kind, languages=("en", "zh-Hans"))
        return CaptionTokenizer.from_json(made.to_json())

    def test_each_has_a_start_token(self, bilingual):
        assert bilingual.languages == ("en", "zh-Hans")
        assert bilingual.start_of("") == bilingual.start_of("en") == bilingual.start == 1
        assert bilingual.start_of("zh-Hans") == 4
        assert [bilingual.word(number) for number in (1, 4)] == ["<start:en>", "<start:zh-Hans>"]
        assert (bilingual.pad, bilingual.end, bilingual.unknown) == (0, 2, 3)

    def test_start_tokens_are_no_text(self, bilingual):
        spelt_out = spelt(bilingual, "a star")
        assert bilingual.text(["<start:zh-Hans>", *spelt_out, "<start:en>"]) == "a star"
        numbers = bilingual.encode(["a <start:zh-Hans> star <start:en>"])[0]
        assert not {1, 4} & set(numbers)
        for numbers in bilingual.sequences(["<start:zh-Hans>"]):
            assert not {1, 4} & set(numbers)

    def test_a_worker_knows_them(self, bilingual):
        again = pickle.loads(pickle.dumps(bilingual))
        assert again.languages == bilingual.languages
        assert again.start_of("zh-Hans") == 4

    def test_another_is_refused_and_those_known_are_named(self, bilingual):
        with pytest.raises(ValueError, match="language is 'fr'; use one of: en, zh-Hans"):
            bilingual.start_of("fr")

    @pytest.mark.parametrize("languages", [("en", "en"), ("en", "<end>"), ("",), ("e n",)])
    def test_names_that_are_none(self, kind, languages):
        with pytest.raises(ValueError, match="languages is .* use short names such as en"):
            CaptionTokenizer.train(["a star"], kind, languages=languages)

    def test_start_tokens_are_part_of_the_vocabulary(self, kind):
        least = 6 if kind == "word" else 261
        message = f"{kind} needs at least {least}"
        with pytest.raises(ValueError, match=message):
            CaptionTokenizer.train(["a"], kind, vocabulary_size=least - 1, languages=("en", "zh"))


class TestReadable:
    def test_byte_pairs_are_shown_as_what_they_stand_for(self):
        tokenizer = CaptionTokenizer.train(["the caf\u00e9的 dog"] * 9, "byte_pair")
        pieces = spelt(tokenizer, "the caf\u00e9的 dog")
        assert "\u0120dog" in pieces
        assert "".join(map(readable, pieces)) == "thecaf\u00e9的dog"

    @pytest.mark.parametrize("token", ["dog", "caf\u00e9", "圆", "<end>", "t-shirt", "\u0120"])
    def test_words_stay_as_they_are(self, token):
        assert readable(token) == token

    def test_a_part_of_a_character_stays_as_it_is(self):
        (whole,) = CaptionTokenizer.train(["的"] * 9, "byte_pair").encode(["的"])
        assert len(whole) == 1
        assert readable("\u00e4\u00b8") == "\u00e4\u00b8"


class TestBytePairs:
    @pytest.mark.parametrize("text", [MIXED, "A red dog <end> 🙂", "नमस्ते,  x\ty", "a red dog"])
    def test_every_text_comes_back_as_it_was(self, byte_pairs, text):
        again = CaptionTokenizer.from_json(byte_pairs.to_json())
        assert said_again(again, text) == text
        assert byte_pairs.unknown not in again.encode([text])[0]
        assert not again.whole_words

    def test_frequent_pieces_become_tokens(self, byte_pairs):
        assert len(byte_pairs) <= 290
        assert len(byte_pairs.encode(["a red dog"])[0]) == 3

    def test_a_sentence_without_spaces_does_not_become_one_token(self):
        caption = "两个红色的圆形"
        tokenizer = CaptionTokenizer.train([caption] * 9, "byte_pair")
        again = CaptionTokenizer.from_json(tokenizer.to_json())
        pieces = [again.text([piece]) for piece in spelt(again, caption)]
        assert pieces == list(caption)

    def test_special_tokens_are_no_text(self, byte_pairs):
        tokens = ["<start>", *spelt(byte_pairs, "a red dog"), "<end>", "<pad>"]
        assert byte_pairs.text(tokens) == "a red dog"
        assert (byte_pairs.pad, byte_pairs.unknown) == (0, 3)

    def test_a_word_is_found_at_the_start_and_after_a_space(self, byte_pairs):
        found = {
            byte_pairs.text([byte_pairs.word(n) for n in ids])
            for ids in byte_pairs.sequences(["red", ""])
        }
        assert found == {"red"}
        start, inside = byte_pairs.sequences(["red"])
        for text, wanted in (("red dog", start), ("a red dog", inside)):
            numbers = byte_pairs.encode([text])[0]
            windows = zip(*(numbers[shift:] for shift in range(len(wanted))), strict=False)
            assert wanted in set(windows)

    def test_the_same_captions_give_the_same_tokens(self):
        captions = [f"a {colour} dog" for colour in ("red", "blue", "green", "greenish")]
        made = {CaptionTokenizer.train(captions, "byte_pair").to_json() for _ in range(3)}
        assert len(made) == 1

    def test_a_character_cut_in_two_is_no_error(self, byte_pairs):
        assert byte_pairs.text(spelt(byte_pairs, "dog 🙂")[:-1]).startswith("dog ")


class TestOffsets:
    @pytest.mark.parametrize("name", ["tokenizer", "byte_pairs"])
    def test_tokens_lie_where_they_came_from(self, name, request):
        tokenizer = request.getfixturevalue(name)
        caption = "A  red star"
        (offsets,) = tokenizer.offsets([caption])
        pieces = [caption[start:end].strip() for start, end in offsets]
        assert "".join(pieces) == "Aredstar"
        assert len(offsets) == len(tokenizer.encode([caption])[0])


class TestAdopt:
    def test_tokens_keep_their_numbers_and_special_ones_come_last(self):
        made = pretrained()
        tokenizer = CaptionTokenizer.adopt(made.to_str())
        size = made.get_vocab_size()
        special = (tokenizer.pad, tokenizer.start, tokenizer.end, tokenizer.unknown)
        assert special == tuple(range(size, size + 4))
        assert len(tokenizer) == size + 4
        text = "the red dog saw 一只猫 <pad>"
        assert tokenizer.encode([text])[0] == made.encode(text).ids
        assert said_again(tokenizer, text) == text
        again = CaptionTokenizer.from_json(tokenizer.to_json())
        assert (again.pad, again.encode([text])) == (size, tokenizer.encode([text]))

    def test_words_of_its_own_get_no_others_behind(self):
        made = Tokenizer(models.WordLevel({"a": 0, "dog": 1, "[UNK]": 2}, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = CaptionTokenizer.adopt(made.to_str())
        assert tokenizer.whole_words
        assert tokenizer.extended(["a kayak"]) is tokenizer

    def test_its_own_special_tokens_are_no_text_either(self):
        tokenizer = CaptionTokenizer.adopt(pretrained().to_str())
        assert tokenizer.text(["the", "<|endoftext|>", "<end>"]) == "the"

    def test_captions_are_neither_cut_nor_padded(self):
        made = pretrained()
        made.enable_truncation(2)
        made.enable_padding(length=9, pad_id=0)
        numbers = CaptionTokenizer.adopt(made.to_str()).encode(["the red dog saw", "the"])
        assert len(numbers[0]) > len(numbers[1])
        assert 0 not in numbers[1]


class TestRefused:
    def test_numbers_with_gaps(self):
        known = {"<pad>": 0, "<start>": 1_000_000, "<end>": 2, "<unknown>": 3}
        gaps = Tokenizer(models.WordLevel(known, unk_token="<unknown>"))
        with pytest.raises(ValueError, match="4 tokens, up to 1000000, have gaps"):
            CaptionTokenizer(gaps)

    def test_a_tokenizer_without_special_tokens(self):
        bare = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        with pytest.raises(ValueError, match="<pad>"):
            CaptionTokenizer(bare)
        with pytest.raises(ValueError, match="<pad>"):
            CaptionTokenizer.from_json(pretrained().to_str())

    def test_pieces_that_nothing_joins(self):
        made = json.loads(pretrained().to_str())
        made["decoder"] = None
        with pytest.raises(ValueError, match="BPE but has no decoder"):
            CaptionTokenizer.adopt(json.dumps(made))

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", '{"model": {"type": "WordLevel", "vocab": {"a": -1}}}']
    )
    def test_what_is_no_tokenizer(self, text):
        for read in (CaptionTokenizer.from_json, CaptionTokenizer.adopt):
            with pytest.raises(ValueError, match="not a tokenizer.json"):
                read(text)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"kind": "letters"}, "kind is 'letters'; use one of: word, byte_pair"),
            ({"vocabulary_size": 4}, "word needs at least 5"),
            ({"kind": "byte_pair", "vocabulary_size": 259}, "byte_pair needs at least 260"),
            ({"min_frequency": 0}, "min_frequency is 0"),
            ({"min_frequency": 2}, "no word comes 2 times"),
            ({"kind": "byte_pair", "punctuation": False}, "byte_pair keeps punctuation"),
        ],
    )
    def test_arguments_out_of_range(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            CaptionTokenizer.train(["a dog"], **arguments)


@pytest.mark.parametrize(
    "caption",
    ["it is 3.5 m long, at 10:30", "1,000 birds", "هل هذا كلب؟", "यह एक कुत्ता है।"],
)
def test_numbers_and_marks_of_other_scripts_come_back_as_they_were(caption):
    tokenizer = CaptionTokenizer.train([caption])
    words = [tokenizer.word(number) for number in tokenizer.encode([caption])[0]]
    assert tokenizer.text(words) == caption


def test_what_is_no_word_is_unspeakable_but_for_the_end():
    tokenizer = CaptionTokenizer.train(["a dog", "一只狗"], languages=("en", "zh"))
    names = {tokenizer.word(number) for number in tokenizer.unspeakable}
    assert names == {"<pad>", "<start:en>", "<start:zh>", "<unknown>"}
