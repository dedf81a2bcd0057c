"""A picture in a page: what it shows, and whether a page still shows it."""

from time import monotonic

from labkit import picture
from labkit.looks import Chart
from labkit.picture import Picture


def heard(picture, view, shown):
    picture._handle_custom_msg({"view": view, "shown": shown}, [])


def test_a_chart_is_shown_with_its_alternative_text():
    shown, chart = Picture(width=400, height=300), Chart(100, "A title")
    chart.alt = "What it shows, in words."
    shown.show(chart)
    assert shown.alt == "What it shows, in words."
    assert shown.png.startswith(b"\x89PNG")
    assert (shown.width, shown.height) == (400, 300)


def test_text_and_picture_reach_the_page_together(monkeypatch):
    shown, sent = Picture(), []
    monkeypatch.setattr(shown, "send_state", lambda key=None: sent.append(set(key)))
    shown.put(b"png", "words")
    assert sent == [{"png", "alt"}]


def test_it_counts_the_places_where_pages_show_it():
    shown = Picture()
    assert (shown.views, shown.seen) == (0, None)
    heard(shown, "one", shown=True)
    heard(shown, "two", shown=True)
    heard(shown, "one", shown=True)
    assert shown.views == 2
    assert 0 <= monotonic() - shown.seen < 5
    heard(shown, "one", shown=False)
    assert shown.views == 1


def test_a_page_that_gave_no_sign_of_life_for_long_is_gone(monkeypatch):
    shown = Picture()
    heard(shown, "one", shown=True)
    later = monotonic() + picture.SILENCE + 1
    monkeypatch.setattr(picture, "monotonic", lambda: later)
    assert shown.views == 0
