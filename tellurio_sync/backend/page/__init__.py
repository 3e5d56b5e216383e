"""Pages for the browser: projects, their runs, and of a run the metrics as plots and the parameters' values.

Who may look.  Every page needs the key, on loopback too: other users of this machine reach that as well.
It is typed once into a form, or comes with the link that the backend prints at its start, whose ``token``
is derived from the key and opens these pages only, never the API.  The browser then keeps that token in a
cookie (HttpOnly, SameSite=Strict, until it is closed).  On a loopback address the ``Host`` header must name
a loopback address too: another site's name that was made to point here (DNS rebinding) gets nothing.  On
other addresses any name will do; and there, as with the API, what is sent can be read on the way.

What they hold.  Made on the server, readable without script; a few lines of script fetch what changed.
Nothing comes from anywhere else, and the Content-Security-Policy allows just this style and this script, by
their hashes.  All texts are escaped by the one function that makes tags (``markup``).  Sizes are bounded:
the constants of ``views`` say how much of a long history is shown.
"""

from .handlers import Page

__all__ = ["Page"]
