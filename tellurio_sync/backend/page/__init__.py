"""Pages for the browser: projects, their runs, and of a run the metrics as plots and the parameters' values.

Access.  Every page needs the key, also on loopback, which other users of this machine can reach as well.
A person types it once into a form, or uses the link that the backend prints at its start.  The ``token`` of that link
is derived from the key, and opens only these pages, never the API.  The browser then keeps the token in a cookie
(HttpOnly, SameSite=Strict, until it is closed).  On a loopback address the ``Host`` header must name a loopback
address, too: a name of another site that was made to point here (DNS rebinding) gets nothing.  On other addresses any
name is accepted; there, as with the API, everything can be read on the way.

What they hold.  Made on the server, readable without script; a few lines of script fetch what changed.
Nothing comes from anywhere else, and the Content-Security-Policy allows just this style and this script, by
their hashes.  All texts are escaped by the one function that makes tags (``markup``).  Sizes are bounded:
the constants of ``views`` say how much of a long history is shown.
"""

from .handlers import Page

__all__ = ["Page"]
