"""The notebooks in a real JupyterLab and a real browser."""

import pytest

pytest.register_assert_rewrite("browser.lab", "browser.board", "browser.server")
