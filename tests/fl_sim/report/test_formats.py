import pytest

from fl_sim.report import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.9999, "> 99.9 %"), (1e-5, "< 0.1 %"),
     (0.8125, "81.2 %")],
)  # fmt: skip
def test_share_never_rounds_to_all_or_nothing(value, text):
    assert formats.share(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (3.14e-7, "3.1e-7"), (0.01, "0.01"), (0.234, "0.23"),
     (99.7, "100"), (12345.0, "1.2e4")],
)  # fmt: skip
def test_error(value, text):
    assert formats.error(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (0.5, "0.50 s"), (8.43, "8.4 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"),
     (7800, "2 h 10 min")],
)  # fmt: skip
def test_seconds(value, text):
    assert formats.seconds(value) == text


def test_words():
    assert formats.plural(1, "image") == "1 image"
    assert formats.plural(2000, "class", "classes") == "2,000 classes"
    assert formats.listing(["a", "b", "c"]) == "a, b and c"
    assert formats.note([1.23456789, "x"]) == "1.235, x"
    assert formats.note(list(range(100))).endswith("… (100 in all)")
