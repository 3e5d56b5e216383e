"""Pages for the browser: projects, their runs, and for each run its metrics as plots and the values of its parameters.

Access.  Every page needs the key, also on loopback, which other users of this machine can reach as well.
A person types it once into a form, or uses the link that the backend prints at its start.  The ``token`` of that link
is derived from the key, and opens only these pages, never the API.  The browser then keeps the token in a cookie
(HttpOnly, SameSite=Strict, until it is closed).  On a loopback address the ``Host`` header must name a loopback
address, too: a name of another site that was made to point here (DNS rebinding) gets nothing.  On other addresses any
name is accepted; there, as with the API, everything can be read on the way.

Content.  Jinja2 makes the pages on the server (``templates``) and escapes all texts; they can be read without script.
Script modules (``static``) draw plots, and fetch changes when the server announces them (server-sent events).  Nothing
comes from other servers: the Content-Security-Policy allows only these scripts and styles, by their hashes, and the one
library from the backend itself.  Separate threads read the records (``reader``), with one module of ``queries`` for
each question, so a page over a million values does not make any client wait.

==============  ==================================================================================
``handlers``    addresses, access, what is sent in which form
``pages``       from an address and the records to the values of a template
``queries``     one module per question to the records
``templates``   one per page
``static``      style, scripts, and uPlot with its licence
==============  ==================================================================================
"""

from .handlers import Page

__all__ = ["Page"]
