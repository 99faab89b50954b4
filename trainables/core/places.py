"""Where the code lies: for what counts folders, so that nobody counts them anew."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
