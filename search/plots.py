"""Pictures of a study: the front, or with one objective how the search got on."""

from search.results import View


def front_html(view: View) -> str:
    """A page of its own."""
    return f"<html>{len(view.results)}</html>"


def front_svg(view: View) -> str:
    """A picture of its own."""
    return f"<svg>{len(view.results)}</svg>"
