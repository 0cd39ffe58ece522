import pytest
from PIL import Image, ImageDraw, ImageFont

from captioner import fonts
from captioner.fonts import font_for


class Chinese:
    """A font that knows every letter but the one that does not exist, and no emoji."""

    def getmask(self, letter):
        known = letter < "\U0001f000"
        return Image.new("L", (5, 5), ord(letter) % 251 + 1 if known else 0).im


@pytest.fixture
def installed(monkeypatch):
    """Let only the given fonts be there."""

    def these(**found):
        monkeypatch.setattr(fonts, "_installed", lambda name, size: found.get(name.split(".")[0]))

    return these


def test_pillows_own_font_writes_english(installed):
    installed(msyh=Chinese())
    font, text = font_for("a dog's T-shirt, 0.93 <end>", 14)
    assert text == "a dog's T-shirt, 0.93 <end>"
    assert font.getlength(text) == ImageFont.load_default(14).getlength(text)


def test_letters_that_it_lacks_let_a_font_of_the_machine_write(installed):
    chinese = Chinese()
    installed(msyh=chinese)
    assert font_for("一个 red 圆形", 14) == (chinese, "一个 red 圆形")
    assert font_for("一个🙂", 14) == (chinese, "一个?")


def test_what_no_font_knows_becomes_a_placeholder(installed):
    installed()
    font, text = font_for("一个 red 圆形", 14)
    assert text == "?? red ??"
    ImageDraw.Draw(Image.new("RGB", (99, 20))).text((0, 0), text, "black", font)


def test_fonts_that_are_not_there_are_no_error():
    assert fonts._installed("no such font.ttf", 14) is None
