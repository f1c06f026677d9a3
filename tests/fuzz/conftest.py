"""The archives of the image tests serve as seeds here; the mounts of ordinary users are tested too."""

import sys
from pathlib import Path

from ordinary import ordinary_user  # noqa: F401 - a fixture

sys.path.append(str(Path(__file__).parents[1] / "image"))
