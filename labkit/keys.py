"""Keys: what is pressed in a panel stays in it. A notebook would take arrows, Enter and letters for its own commands.

Combinations with Ctrl, Alt or Cmd go on to the notebook. It shows nothing.
"""

from pathlib import Path

from anywidget import AnyWidget


class Keys(AnyWidget):
    """To be put among the children of a panel."""

    _esm = Path(__file__).parent / "data" / "keys.js"
