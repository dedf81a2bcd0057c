import numpy as np
import pytest
from test_charts import texts
from test_choice import EVERYTHING, measured

from labkit import charts
from labkit.errors import UsageError

FIGURES = measured(latency=[0.4, 2.5, 0.3], bytes=[4, 420, 15], loss=[20, 8, 20], effort=[5, 20, 6])


def test_the_best_protocol_stands_first_with_its_score_and_what_it_measured() -> None:
    chart = charts.ranking(FIGURES, {"latency": 1, "bytes": 1})
    shown = [text.get_text() for text in texts(chart)]
    names = [text for text in shown if text in ("WebSocket", "Webhook", "Server-Sent Events")]
    assert names == ["WebSocket", "Server-Sent Events", "Webhook"]
    assert {"0.40 ms", "4 bytes"} <= set(shown)


def test_it_says_what_matters_and_what_decides() -> None:
    chart = charts.ranking(FIGURES, {"latency": 1, "bytes": 1})
    assert "What matters: latency 1, bytes 1" in chart.alt
    assert "WebSocket leads; without bytes, Server-Sent Events would lead" in chart.alt
    alone = charts.ranking(FIGURES, {"bytes": 2})
    assert "no single criterion decides it" in alone.alt


def test_the_alt_text_has_every_figure_that_was_weighed_and_no_other() -> None:
    alt = charts.ranking(FIGURES, {"latency": 1, "loss": 2}).alt
    assert "Webhook" in alt
    assert "latency 2.5 ms, loss 8 %" in alt
    assert "bytes" not in alt


def test_a_figure_that_is_missing_is_said_to_be() -> None:
    figures = FIGURES.copy()
    figures.loc["sse", "latency"] = np.nan
    assert "latency not measured" in charts.ranking(figures, EVERYTHING).alt


def test_the_same_figures_give_the_same_picture() -> None:
    assert charts.ranking(FIGURES, EVERYTHING).png() == charts.ranking(FIGURES, EVERYTHING).png()


def test_weights_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="The weight of loss is 7"):
        charts.ranking(FIGURES, {"loss": 7})
